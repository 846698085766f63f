//! How a merchant's messages look.

use crate::config::{At, Validate};
use schemars::JsonSchema;
use serde::Deserialize;

/// How a merchant's messages look.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Brand {
    /// Shown instead of the name: an address with https, or a file (PNG, JPEG or GIF of at most 64 kB), relative to the
    /// configuration directory, that travels within the message.
    pub logo: Option<String>,
    /// Of the button, as `#rrggbb`. The text on it is white or black, whichever can be read better.
    pub colour: String,
    /// Printed below every message, line by line: what the law wants to be said of the sender.
    pub footer: String,
    /// Attach the invoice as a PDF where the processor gives a link to it.
    pub attach_invoice: bool,
    /// Attach a calendar entry for the due date to reminders before it.
    pub calendar_entry: bool,
}

impl Default for Brand {
    fn default() -> Self {
        Self {
            logo: None,
            colour: "#12513f".to_owned(),
            footer: String::new(),
            attach_invoice: true,
            calendar_entry: false,
        }
    }
}

impl Brand {
    /// Red, green and blue of the colour.
    pub fn rgb(&self) -> Option<[u8; 3]> {
        let digits = self.colour.strip_prefix('#').filter(|digits| digits.len() == 6 && digits.is_ascii())?;
        let part = |range| u8::from_str_radix(digits.get(range)?, 16).ok();
        Some([part(0..2)?, part(2..4)?, part(4..6)?])
    }

    /// Whether the logo is fetched by the reader's mail program.
    pub fn logo_link(&self) -> Option<&str> {
        self.logo.as_deref().filter(|logo| logo.starts_with("https://"))
    }

    /// The logo's file.
    pub fn logo_file(&self) -> Option<&str> {
        self.logo.as_deref().filter(|logo| !logo.contains("://"))
    }
}

impl Validate for Brand {
    fn validate(&self, at: &mut At<'_>) {
        if self.rgb().is_none() {
            at.fault("colour", "is no colour such as \"#12513f\" (in quotes: # begins a comment)");
        }
        if self.logo.is_some() && self.logo_link().or(self.logo_file()).is_none() {
            at.fault("logo", "must begin with https://, or be a file in the configuration directory");
        }
    }
}
