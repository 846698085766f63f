//! Stub until the data packs land.
use crate::file::CapFile;
use jiff::civil::Date;
use kernel::PayerKind;
use kernel::contact::{Minute, Weekdays};
/// Hours.
#[derive(Debug, Clone)]
#[expect(missing_docs)]
pub struct LawfulHours {
    pub weekdays: Weekdays,
    pub opens: Minute,
    pub closes: Minute,
}
/// Rules.
#[derive(Debug, Clone)]
#[expect(missing_docs)]
pub struct Rules {
    pub id: String,
    pub earliest_days_after_due: Option<u16>,
    pub min_days_between: Option<u16>,
    pub max_reminders: Option<u16>,
    pub contact: Option<LawfulHours>,
    pub cap: Option<CapFile>,
}
/// Rules.
pub fn rules(_country: &str, _payer: PayerKind, _on: Date) -> Option<&'static Rules> {
    None
}
