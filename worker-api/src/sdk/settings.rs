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
    /// A sentence that says what is wrong with which setting.
    pub fn settings_as<T: serde::de::DeserializeOwned>(&self) -> Result<T, Error> {
        read(self.settings())
    }
}

fn read<T: serde::de::DeserializeOwned>(settings: &str) -> Result<T, Error> {
    // By way of a value: an error of the text itself would name a line and a column of JSON that nobody wrote.
    let value: serde_json::Value = serde_json::from_str(settings)
        .map_err(|error| Error::new(format!("cannot read the application's settings: {error}")))?;
    serde_json::from_value(value).map_err(|error| {
        Error::new(format!(
            "the application's settings are wrong: {error}; see its table [app.NAME] in the configuration file"
        ))
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
    }

    #[test]
    fn a_table_becomes_a_type_or_a_sentence() {
        assert_eq!(read::<Settings>("{}").unwrap().pool, 0);
        assert_eq!(read::<Settings>(r#"{"pool":4}"#).unwrap().pool, 4);
        for (text, complaint) in [
            (r#"{"pool":"4"}"#, "invalid type: string \"4\", expected u32"),
            (r#"{"pol":4}"#, "unknown field `pol`, expected `pool`"),
        ] {
            let error = read::<Settings>(text).unwrap_err().to_string();
            assert!(error.contains(complaint) && error.contains("[app.NAME]"), "{error}");
        }
    }
}
