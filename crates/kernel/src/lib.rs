//! The words every other crate speaks in: ids, money, civil time, clocks, masked personal data.
//!
//! Nothing here knows about events, databases or rules. If two services must agree on how something is
//! written (an amount, a zone, a shard), the agreement lives here.

pub mod clock;
pub mod contact;
pub mod id;
pub mod masked;
pub mod money;
pub mod phone;
pub mod segment;

pub use clock::{Clock, ManualClock, SharedClock, SystemClock, TimeLapse};
pub use contact::ContactHours;
pub use id::{CustomerId, InvoiceId, MerchantId, Shard};
pub use masked::Masked;
pub use money::{Currency, Money};
pub use segment::{PayerKind, Segment};
