//! Amounts: minor units and an ISO 4217 currency. No floating point, no adding of different currencies.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Why a text is not an amount of money.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// Not a code of ISO 4217.
    #[error("{0:?} is not an ISO 4217 currency code such as EUR")]
    UnknownCurrency(String),
    /// Not a decimal number.
    #[error("{0:?} is not a number such as 1234.50")]
    NotANumber(String),
    /// More decimals than the currency has.
    #[error("{0:?} has more than the {1} decimals of {2}")]
    TooPrecise(String, u8, Currency),
    /// Does not fit into 64 bits of minor units.
    #[error("{0:?} is too large")]
    TooLarge(String),
}

/// Codes of ISO 4217 by number of decimals (list one, amendment 177). Funds, metals and test codes are left out:
/// nobody is invoiced in them.
const CODES: [(u8, &str); 3] = [
    (0, "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF"),
    (
        2,
        "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CNY \
         COP CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR \
         ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK \
         MXN MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP \
         SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VES WST XCD XCG YER ZAR \
         ZMW ZWG",
    ),
    (3, "BHD IQD JOD KWD LYD OMR TND"),
];

/// An ISO 4217 currency with its number of decimals.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Currency {
    code: [u8; 3],
    decimals: u8,
}

impl Currency {
    /// Looks a code up; case does not matter (Stripe writes `eur`).
    pub fn try_new(code: &str) -> Result<Self, MoneyError> {
        let unknown = || MoneyError::UnknownCurrency(code.to_owned());
        let upper: [u8; 3] = code.to_ascii_uppercase().into_bytes().try_into().map_err(|_| unknown())?;
        CODES
            .iter()
            .find(|(_, codes)| codes.split(' ').any(|c| c.as_bytes() == upper))
            .map(|&(decimals, _)| Self { code: upper, decimals })
            .ok_or_else(unknown)
    }

    /// The three letters, upper case.
    pub fn code(&self) -> &str {
        std::str::from_utf8(&self.code).unwrap_or("???")
    }

    /// How many decimals the currency has: JPY 0, EUR 2, KWD 3.
    pub const fn decimals(&self) -> u8 {
        self.decimals
    }

    const fn unit(self) -> i64 {
        10_i64.pow(self.decimals as u32)
    }

    /// How the currency's home country writes an amount.
    fn style(self) -> Style {
        match self.code() {
            "USD" => Style::before("$", ",", "."),
            "GBP" => Style::before("£", ",", "."),
            "EUR" => Style::before("€", ",", "."),
            "JPY" | "CNY" => Style::before("¥", ",", "."),
            "INR" => Style::before("₹", ",", "."),
            "NGN" => Style::before("₦", ",", "."),
            "CHF" => Style::before("CHF\u{a0}", "’", "."),
            "BRL" => Style::before("R$\u{a0}", ".", ","),
            "DKK" => Style::after("\u{a0}kr.", ".", ","),
            "NOK" | "SEK" => Style::after("\u{a0}kr", "\u{a0}", ","),
            "PLN" => Style::after("\u{a0}zł", "\u{a0}", ","),
            "CZK" => Style::after("\u{a0}Kč", "\u{a0}", ","),
            _ => Style { prefix: None, suffix: "", group: ",", point: "." },
        }
    }
}

struct Style {
    /// `None` is "the code and a space".
    prefix: Option<&'static str>,
    suffix: &'static str,
    group: &'static str,
    point: &'static str,
}

impl Style {
    const fn before(prefix: &'static str, group: &'static str, point: &'static str) -> Self {
        Self { prefix: Some(prefix), suffix: "", group, point }
    }
    const fn after(suffix: &'static str, group: &'static str, point: &'static str) -> Self {
        Self { prefix: Some(""), suffix, group, point }
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl TryFrom<String> for Currency {
    type Error = MoneyError;
    fn try_from(code: String) -> Result<Self, MoneyError> {
        Self::try_new(&code)
    }
}

impl From<Currency> for String {
    fn from(currency: Currency) -> Self {
        currency.code().to_owned()
    }
}

impl std::str::FromStr for Currency {
    type Err = MoneyError;
    fn from_str(code: &str) -> Result<Self, MoneyError> {
        Self::try_new(code)
    }
}

/// An amount in minor units of one currency. `Display` writes it the way the currency's home country does:
/// `€1,234.50`, `¥1,235`, `1 234,50 kr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Money {
    /// Cents, yen, fils: 1/10^decimals of the unit.
    pub minor: i64,
    /// The currency.
    pub currency: Currency,
}

impl Money {
    /// An amount of minor units.
    pub const fn new(minor: i64, currency: Currency) -> Self {
        Self { minor, currency }
    }

    /// Reads a plain decimal such as `1234.5` or `-3`. Zeros beyond the currency's decimals are accepted
    /// (`13000.00` yen), other digits are not: an amount is never rounded.
    pub fn parse(text: &str, currency: Currency) -> Result<Self, MoneyError> {
        let not_a_number = || MoneyError::NotANumber(text.to_owned());
        let too_large = || MoneyError::TooLarge(text.to_owned());
        let trimmed = text.trim();
        let (negative, digits) = match trimmed.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, trimmed),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) {
            return Err(not_a_number());
        }
        let significant = fraction.trim_end_matches('0');
        let decimals = usize::from(currency.decimals);
        if significant.len() > decimals {
            return Err(MoneyError::TooPrecise(text.to_owned(), currency.decimals, currency));
        }
        let units: i64 = whole.parse().map_err(|_| too_large())?;
        let cents: i64 = format!("{significant:0<decimals$}0").parse::<i64>().map_err(|_| not_a_number())? / 10;
        let minor = units.checked_mul(currency.unit()).and_then(|m| m.checked_add(cents)).ok_or_else(too_large)?;
        Ok(Self::new(if negative { -minor } else { minor }, currency))
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let style = self.currency.style();
        let unit = self.currency.unit().unsigned_abs();
        let (whole, cents) = (self.minor.unsigned_abs() / unit, self.minor.unsigned_abs() % unit);
        if self.minor < 0 {
            f.write_str("-")?;
        }
        match style.prefix {
            Some(prefix) => f.write_str(prefix)?,
            None => write!(f, "{}\u{a0}", self.currency)?,
        }
        let digits = whole.to_string();
        for (i, digit) in digits.chars().enumerate() {
            if i > 0 && (digits.len() - i).is_multiple_of(3) {
                f.write_str(style.group)?;
            }
            write!(f, "{digit}")?;
        }
        if self.currency.decimals > 0 {
            write!(f, "{}{cents:0width$}", style.point, width = usize::from(self.currency.decimals))?;
        }
        f.write_str(style.suffix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn money(minor: i64, code: &str) -> String {
        Money::new(minor, Currency::try_new(code).unwrap()).to_string()
    }

    #[test]
    fn writes_each_currency_its_own_way() {
        assert_eq!(money(123_450, "eur"), "€1,234.50");
        assert_eq!(money(1_235, "JPY"), "¥1,235");
        assert_eq!(money(1_234_567, "KWD"), "KWD\u{a0}1,234.567");
        assert_eq!(money(123_450, "SEK"), "1\u{a0}234,50\u{a0}kr");
        assert_eq!(money(123_450, "DKK"), "1.234,50\u{a0}kr.");
        assert_eq!(money(100_000_050, "CHF"), "CHF\u{a0}1’000’000.50");
        assert_eq!(money(-5, "USD"), "-$0.05");
    }

    #[test]
    fn reads_plain_decimals_and_never_rounds() {
        let eur = Currency::try_new("EUR").unwrap();
        let jpy = Currency::try_new("JPY").unwrap();
        assert_eq!(Money::parse("50.39", eur).unwrap().minor, 5_039);
        assert_eq!(Money::parse("50.3", eur).unwrap().minor, 5_030);
        assert_eq!(Money::parse("13000.00", jpy).unwrap().minor, 13_000);
        assert_eq!(Money::parse("-1", eur).unwrap().minor, -100);
        assert!(matches!(Money::parse("1.005", eur), Err(MoneyError::TooPrecise(..))));
        assert!(matches!(Money::parse("1,5", eur), Err(MoneyError::NotANumber(_))));
        assert!(matches!(Money::parse("", eur), Err(MoneyError::NotANumber(_))));
        assert!(matches!(Money::parse("99999999999999999999", eur), Err(MoneyError::TooLarge(_))));
    }

    #[test]
    fn unknown_currencies_are_named() {
        let error = Currency::try_new("EURO").unwrap_err();
        assert_eq!(error.to_string(), r#""EURO" is not an ISO 4217 currency code such as EUR"#);
        assert!(Currency::try_new("XXX").is_err());
    }

    proptest! {
        #[test]
        fn parse_inverts_plain_writing(minor in -1_000_000_000_000_i64..1_000_000_000_000, code in 0..3_usize) {
            let currency = Currency::try_new(["JPY", "EUR", "KWD"][code]).unwrap();
            let unit = currency.unit();
            let decimals = usize::from(currency.decimals());
            let sign = if minor < 0 { "-" } else { "" };
            let text = match decimals {
                0 => minor.to_string(),
                _ => format!("{sign}{}.{:0decimals$}", minor.abs() / unit, minor.abs() % unit),
            };
            prop_assert_eq!(Money::parse(&text, currency).unwrap().minor, minor);
        }
    }
}
