//! An application's settings as a type of its own: the table `[app.NAME]` of the configuration file.
//!
//! It owns the step from the text that crosses to the author's type, and the sentence when that fails. Call it in
//! create: the probe then refuses a reload with a wrong table, and the old generation serves on. A newcomer would
//! forget `#[serde(deny_unknown_fields)]`, and a misspelt name would be silently the default.

use crate::app::WorkerFacts;
use crate::error::Error;

impl WorkerFacts<'_> {
    /// The application's settings, read as `T`. Without a table that is an empty one.
    ///
    /// ```
    /// use rgunicorn_worker_api::prelude::*;
    ///
    /// #[derive(serde::Deserialize)]
    /// #[serde(deny_unknown_fields, default)]
    /// struct Settings {
    ///     greeting: String,
    /// }
    ///
    /// impl Default for Settings {
    ///     fn default() -> Self {
    ///         Self { greeting: "Hello".to_owned() }
    ///     }
    /// }
    ///
    /// // [app.app]
    /// // greeting = "Good morning"
    /// fn app(facts: &WorkerFacts<'_>) -> Result<App, Error> {
    ///     let settings: Settings = facts.settings_as()?;
    ///     Ok(App::inline(move |_, response| {
    ///         Ok(response.respond(200, NO_FIELDS, settings.greeting.as_bytes())?)
    ///     }))
    /// }
    /// ```
    ///
    /// # Errors
    /// A sentence that says which setting is wrong, what was found, what is wanted, and where it is looked for.
    pub fn settings_as<T: serde::de::DeserializeOwned>(&self) -> Result<T, Error> {
        read(self.settings(), self.application)
    }
}

fn read<T: serde::de::DeserializeOwned>(settings: &str, application: Option<&str>) -> Result<T, Error> {
    // By way of a value: an error of the text itself would name a line and a column of JSON that nobody wrote.
    let value: serde_json::Value = serde_json::from_str(settings)
        .map_err(|error| Error::new(format!("cannot read the application's settings: {error}")))?;
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let what = match path.as_str() {
            // What is missing has no path of its own, and serde's sentence names it.
            "." => "the application's settings are wrong".to_owned(),
            path => format!("the setting `{path}` is wrong"),
        };
        // The server alone knows which of the two it was.
        let place = match application {
            Some(name) => {
                format!("the table [app.{name}] of the configuration file, or the settings of the mount")
            }
            None => "the application's table in the configuration file".to_owned(),
        };
        Error::new(format!("{what}: {}; see {place}", error.inner()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        #[serde(default)]
        pool: u32,
        #[serde(default)]
        servers: Vec<Server>,
    }

    #[derive(serde::Deserialize, Debug)]
    struct Server {
        port: u16,
    }

    #[test]
    fn a_table_becomes_a_type_or_a_sentence() {
        let read = |text| read::<Settings>(text, Some("shop"));
        assert_eq!(read("{}").unwrap().pool, 0);
        assert_eq!(read(r#"{"pool":4}"#).unwrap().pool, 4);
        assert_eq!(read(r#"{"servers":[{"port":80}]}"#).unwrap().servers[0].port, 80);
        for (text, complaint) in [
            (r#"{"pool":"4"}"#, "the setting `pool` is wrong: invalid type: string \"4\", expected u32"),
            (
                r#"{"servers":[{"port":80},{"port":65536}]}"#,
                "the setting `servers[1].port` is wrong: invalid value: integer `65536`, expected u16",
            ),
            (r#"{"servers":[{}]}"#, "the setting `servers[0]` is wrong: missing field `port`"),
            (r#"{"pol":4}"#, "the setting `pol` is wrong: unknown field `pol`, expected `pool` or `servers`"),
        ] {
            let error = read(text).unwrap_err().to_string();
            let place = "see the table [app.shop] of the configuration file, or the settings of the mount";
            assert!(error.starts_with(complaint) && error.ends_with(place), "{error}");
        }
    }

    #[test]
    fn without_a_name_none_is_made_up() {
        let error = super::read::<Settings>(r#"{"pool":-1}"#, None).unwrap_err().to_string();
        let wanted = "the setting `pool` is wrong: invalid value: integer `-1`, expected u32; see the application's \
                      table in the configuration file";
        assert_eq!(error, wanted);
        let error = super::read::<Server>("{}", None).unwrap_err().to_string();
        assert!(
            error.starts_with("the application's settings are wrong: missing field `port`; see "),
            "{error}"
        );
    }
}
