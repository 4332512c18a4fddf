//! Quantities of resources as exact numbers.
//!
//! The grammar is that of `k8s.io/apimachinery/pkg/api/resource`: a decimal number with a binary suffix (`Ki` … `Ei`), a
//! decimal one (`n`, `u`, `m`, none, `k` … `E`) or an exponent (`e3`, `E-3`). As there, the smallest step is 10⁻⁹, and what
//! is finer is rounded away from zero. Floating point is not involved: sums over a cluster have to be exact, or a node's
//! allocatable would flicker.

use std::fmt;
use std::iter::Sum;
use std::ops::Add;
use std::str::FromStr;

const NANO: i128 = 1_000_000_000;

/// An amount of a resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantity {
    nanos: i128,
}

/// Why a text is no quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// It does not follow the grammar.
    #[error("{0:?} is not a quantity")]
    Malformed(String),
    /// It follows the grammar and is beyond any cluster.
    #[error("the quantity {0:?} is too large or has too many digits")]
    TooLarge(String),
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { nanos: 0 };

    /// That many whole units: bytes, cores, pods.
    pub const fn whole(units: i64) -> Self {
        Self { nanos: units as i128 * NANO }
    }

    /// In billionths, such as those of a core. Nothing where it is negative.
    pub fn nanos(self) -> u64 {
        u64::try_from(self.nanos.max(0)).unwrap_or(u64::MAX)
    }

    /// In whole units, such as bytes; what is less than one does not count. Nothing where it is negative.
    pub fn units(self) -> u64 {
        u64::try_from((self.nanos / NANO).max(0)).unwrap_or(u64::MAX)
    }

    /// What is left of this amount without `other`; never less than nothing.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self { nanos: self.nanos.saturating_sub(other.nanos).max(0) }
    }

    /// This amount for each of so many parts, as a number that can only be compared with others of its kind.
    pub fn ratio(self, parts: u32) -> i128 {
        self.nanos / i128::from(parts.max(1))
    }

    /// How many millionths of the whole this amount is; 0 where there is no whole.
    pub fn millionths_of(self, whole: Self) -> i128 {
        if whole.nanos == 0 { 0 } else { self.nanos.saturating_mul(1_000_000) / whole.nanos }
    }

    /// So many percent of this amount, rounded down to what the resource is counted in.
    #[must_use]
    pub fn percent(self, percent: u32, resource: &str) -> Self {
        let part = self.nanos.saturating_mul(percent.into()) / 100;
        let step = if resource == "cpu" { NANO / 1000 } else { NANO };
        Self { nanos: part - part % step }
    }

    /// The way in which Kubernetes would print this amount of that resource: CPU in cores or thousandths, bytes in the
    /// largest of `Ki`, `Mi`, `Gi` that is exact, anything else as a plain number.
    pub fn print(self, resource: &str) -> String {
        if self.nanos != 0 && is_bytes(resource) && self.nanos % NANO == 0 {
            let bytes = self.nanos / NANO;
            for (suffix, shift) in [("Gi", 30), ("Mi", 20), ("Ki", 10)] {
                if bytes % (1 << shift) == 0 {
                    return format!("{}{suffix}", bytes / (1 << shift));
                }
            }
        }
        self.to_string()
    }
}

fn is_bytes(resource: &str) -> bool {
    // A quota names the same resources with `requests.` or `limits.` before them.
    let name = resource.strip_prefix("requests.").or_else(|| resource.strip_prefix("limits.")).unwrap_or(resource);
    matches!(name, "memory" | "ephemeral-storage" | "storage") || name.starts_with("hugepages-")
}

/// The shortest of the plain forms that is exact: whole units, else `m`, `u` or `n`.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (step, suffix) = [(NANO, ""), (1_000_000, "m"), (1_000, "u")]
            .into_iter()
            .find(|(step, _)| self.nanos % step == 0)
            .unwrap_or((1, "n"));
        write!(f, "{}{suffix}", self.nanos / step)
    }
}

/// Saturates, far beyond what any API server accepts.
impl Add for Quantity {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { nanos: self.nanos.saturating_add(other.nanos) }
    }
}

impl Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let malformed = || QuantityError::Malformed(text.into());
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(malformed());
        }
        let scale = Scale::of(suffix).ok_or_else(malformed)?;
        let magnitude = magnitude(whole, fraction, scale).ok_or_else(|| QuantityError::TooLarge(text.into()))?;
        Ok(Self { nanos: if negative { -magnitude } else { magnitude } })
    }
}

impl TryFrom<&k8s_openapi::apimachinery::pkg::api::resource::Quantity> for Quantity {
    type Error = QuantityError;

    fn try_from(text: &k8s_openapi::apimachinery::pkg::api::resource::Quantity) -> Result<Self, QuantityError> {
        text.0.parse()
    }
}

/// What a suffix multiplies with: 2^binary or 10^decimal.
#[derive(Clone, Copy)]
struct Scale {
    binary: u32,
    decimal: i32,
}

impl Scale {
    fn of(suffix: &str) -> Option<Self> {
        let (binary, decimal) = match suffix {
            "Ki" => (10, 0),
            "Mi" => (20, 0),
            "Gi" => (30, 0),
            "Ti" => (40, 0),
            "Pi" => (50, 0),
            "Ei" => (60, 0),
            "n" => (0, -9),
            "u" => (0, -6),
            "m" => (0, -3),
            "" => (0, 0),
            "k" => (0, 3),
            "M" => (0, 6),
            "G" => (0, 9),
            "T" => (0, 12),
            "P" => (0, 15),
            "E" => (0, 18),
            _ => {
                let digits = suffix.strip_prefix(['e', 'E'])?;
                let unsigned = digits.strip_prefix(['+', '-']).unwrap_or(digits);
                if unsigned.is_empty() || !unsigned.bytes().all(|b| b.is_ascii_digit()) {
                    return None;
                }
                // An exponent of more digits than an i32 has is as good as the largest.
                (0, digits.parse().unwrap_or(if digits.starts_with('-') { i32::MIN } else { i32::MAX }))
            }
        };
        Some(Self { binary, decimal })
    }
}

/// The number in nanos, rounded up; `None` where it does not fit.
fn magnitude(whole: &str, fraction: &str, scale: Scale) -> Option<i128> {
    let fraction = fraction.trim_end_matches('0');
    let digits: String = [whole, fraction].concat();
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Some(0);
    }
    // The value is digits · 2^binary · 10^power, in nanos.
    let power = i64::from(scale.decimal) + 9 - i64::try_from(fraction.len()).ok()?;
    if power < -50 - i64::try_from(digits.len()).ok()? {
        return Some(1);
    }
    let mut digits: i128 = digits.parse().ok()?;
    let mut twos = scale.binary;
    if power >= 0 {
        digits = digits.checked_mul(10_i128.checked_pow(u32::try_from(power).ok()?)?)?;
        return digits.checked_mul(1 << twos);
    }
    // 10^-power is 2^-power · 5^-power: dividing out the common twos first keeps the product small.
    let tens = u32::try_from(-power).ok()?;
    let common = twos.min(tens);
    twos -= common;
    let Some(divisor) =
        5_i128.checked_pow(tens).and_then(|fives| fives.checked_mul(1_i128.checked_shl(tens - common)?))
    else {
        // So small a decimal number is less than a nano; a binary one of so many digits nobody writes.
        return (scale.binary == 0).then_some(1);
    };
    let product = digits.checked_mul(1 << twos)?;
    Some(product / divisor + i128::from(product % divisor != 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn q(text: &str) -> Quantity {
        text.parse().unwrap()
    }

    #[test]
    fn every_form_is_understood() {
        for (text, nanos) in [
            ("0", 0),
            ("100m", 100_000_000),
            ("1.5", 1_500_000_000),
            (".5", 500_000_000),
            ("5.", 5_000_000_000),
            ("+2", 2_000_000_000),
            ("-2", -2_000_000_000),
            ("123n", 123),
            ("7u", 7_000),
            ("1e3", 1_000 * NANO),
            ("1E3", 1_000 * NANO),
            ("1e-3", 1_000_000),
            ("12e+2", 1_200 * NANO),
            ("1E", 1_000_000_000_000_000_000 * NANO),
            ("5M", 5_000_000 * NANO),
            ("3k", 3_000 * NANO),
            ("2Gi", (2 << 30) * NANO),
            ("0.5Ki", 512 * NANO),
            ("1Ei", (1 << 60) * NANO),
            ("0.123456789012345678Ei", 142_335_986_942_043_632_726_471_714),
            ("000000000000000000000000000000000000000000000000001", NANO),
        ] {
            assert_eq!(text.parse(), Ok(Quantity { nanos }), "{text}");
        }
    }

    #[test]
    fn what_is_finer_than_a_nano_is_rounded_away_from_zero() {
        assert_eq!(q("0.0000000001"), q("1n"));
        assert_eq!(q("-0.5n"), q("-1n"));
        assert_eq!(q("1e-99999999999"), q("1n"));
        assert_eq!(q("1.0000000000000000000000000000000000000"), q("1"));
    }

    #[test]
    fn an_error_names_the_text() {
        for text in
            ["", ".", "-", "1.2.3", "1 ", " 1", "1ki", "1K", "1e", "1e+", "1e1.5", "ten", "1µ", "--1", "Gi", "m"]
        {
            assert_eq!(text.parse::<Quantity>(), Err(QuantityError::Malformed(text.into())));
        }
        for text in ["1e99999999999", "99999999999999999999999999999999999999999", "99999999999999Ei"] {
            let error = text.parse::<Quantity>().unwrap_err();
            assert_eq!(error.to_string(), format!("the quantity {text:?} is too large or has too many digits"));
        }
    }

    #[test]
    fn amounts_are_added_subtracted_and_compared() {
        assert_eq!(q("100m") + q("1.9"), q("2"));
        assert_eq!(q("2").minus(q("500m")), q("1.5"));
        assert_eq!(q("1").minus(q("2")), Quantity::ZERO);
        assert!(q("1Gi") > q("1G"));
        assert_eq!([q("1"), q("2Ki")].into_iter().sum::<Quantity>(), Quantity::whole(2049));
    }

    #[test]
    fn each_resource_is_printed_in_its_own_way() {
        for (text, resource, printed) in [
            ("4000m", "cpu", "4"),
            ("1.25", "cpu", "1250m"),
            ("1500u", "cpu", "1500u"),
            ("2048Mi", "memory", "2Gi"),
            ("1536Mi", "memory", "1536Mi"),
            ("16074616Ki", "memory", "16074616Ki"),
            ("1000000001", "memory", "1000000001"),
            ("0", "memory", "0"),
            ("1024", "requests.memory", "1Ki"),
            ("2Mi", "hugepages-2Mi", "2Mi"),
            ("2048", "pods", "2048"),
            ("2Ki", "example.com/widgets", "2048"),
        ] {
            assert_eq!(q(text).print(resource), printed, "{text} of {resource}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_the_same(nanos in prop_oneof![any::<i64>().prop_map(i128::from),
                any::<i64>().prop_map(|n| i128::from(n) * NANO), (0_i128..1 << 40).prop_map(|n| n * 1024 * NANO)],
            resource in prop_oneof![Just("cpu"), Just("memory"), Just("pods")]) {
            let amount = Quantity { nanos };
            prop_assert_eq!(amount.print(resource).parse(), Ok(amount));
        }

        #[test]
        fn no_text_panics(text in "[-+]?[0-9.]{0,45}[eEKMGTPimnuk]{0,2}[-+]?[0-9]{0,12}|.*") {
            let _ = text.parse::<Quantity>();
        }
    }
}
