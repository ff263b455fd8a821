//! Events of the crate `tracing` in the server's log, with level, target and the spans around them.
//!
//! It owns the way from an event to a record of `log`, whose forwarder to the host has been installed by then. What a
//! newcomer gets wrong: an event is formatted only if `log` would take it, so the level that the operator sets rules
//! both, also while the server runs.

use std::fmt::{self, Write as _};

use tracing_core::dispatcher::{Dispatch, set_global_default};
use tracing_core::field::{Field, Visit};
use tracing_core::span::{Attributes, Id, Record};
use tracing_core::subscriber::Interest;
use tracing_core::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Registry;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

/// Sends this library's events to `log`. A subscriber that is there already stays.
pub(crate) fn install() {
    let _ = set_global_default(Dispatch::new(Registry::default().with(ToLog)));
}

struct ToLog;

/// A span's fields, as text.
struct Fields(String);

impl<S: Subscriber + for<'l> LookupSpan<'l>> Layer<S> for ToLog {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        // The level may change while the server runs.
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        level(*metadata.level()) <= log::max_level()
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut text = Text::default();
            attributes.record(&mut text);
            span.extensions_mut().replace(Fields(text.whole()));
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut text = Text::default();
            values.record(&mut text);
            let more = text.whole();
            let mut extensions = span.extensions_mut();
            match extensions.get_mut::<Fields>() {
                Some(Fields(fields)) => {
                    if !fields.is_empty() {
                        fields.push(' ');
                    }
                    fields.push_str(&more);
                }
                None => extensions.insert(Fields(more)),
            }
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let metadata = event.metadata();
        let mut line = String::new();
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            line.push_str(span.name());
            if let Some(Fields(fields)) = span.extensions().get::<Fields>()
                && !fields.is_empty()
            {
                // A String takes whatever is written to it.
                let _ = write!(line, "{{{fields}}}");
            }
            line.push_str(": ");
        }
        let mut text = Text::default();
        event.record(&mut text);
        line.push_str(&text.whole());
        log::logger().log(
            &log::Record::builder()
                .level(level(*metadata.level()))
                .target(metadata.target())
                .module_path(metadata.module_path())
                .file(metadata.file())
                .line(metadata.line())
                .args(format_args!("{line}"))
                .build(),
        );
    }
}

fn level(level: Level) -> log::Level {
    match level {
        Level::ERROR => log::Level::Error,
        Level::WARN => log::Level::Warn,
        Level::INFO => log::Level::Info,
        Level::DEBUG => log::Level::Debug,
        _ => log::Level::Trace,
    }
}

/// The message, and `name=value` of the other fields.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Text {
    fn whole(self) -> String {
        match (self.message.is_empty(), self.fields.is_empty()) {
            (false, false) => format!("{} {}", self.message, self.fields),
            (false, true) => self.message,
            (true, _) => self.fields,
        }
    }

    fn add(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        // A String takes whatever is written to it.
        if field.name() == "message" {
            let _ = self.message.write_fmt(value);
        } else {
            let space = if self.fields.is_empty() { "" } else { " " };
            let _ = write!(self.fields, "{space}{}={value}", field.name());
        }
    }
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.add(field, format_args!("{value}"));
        } else {
            self.add(field, format_args!("{value:?}"));
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.add(field, format_args!("{value}"));
    }
}
