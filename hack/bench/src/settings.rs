//! What is asked for, in the environment: it is what one types before `make bench`.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Bursts of so many pods, one after the other.
    pub(crate) bursts: Vec<usize>,
    /// Each burst so many times, the subjects in turn.
    pub(crate) rounds: usize,
    /// Creations (and deletions) a second, one measurement for each.
    pub(crate) rates: Vec<usize>,
    /// How long pods come and go at each rate, and how long nothing happens.
    pub(crate) seconds: Duration,
    /// Who is measured.
    pub(crate) subjects: Vec<String>,
    /// Where the report goes.
    pub(crate) out: PathBuf,
    /// The program that is measured.
    pub(crate) longshore: PathBuf,
    /// More flags of `longshore run`.
    pub(crate) flags: Vec<String>,
    /// The clusters stay up for the next run.
    pub(crate) keep: bool,
    /// So many pods over twenty targets that are no real ones, as well.
    pub(crate) scale: Vec<usize>,
    /// Logs, port-forwards and execs as well, in a target with a real node.
    pub(crate) streams: bool,
}

impl Settings {
    pub(crate) fn from_environment() -> Result<Self> {
        Self::new(|name| env::var(name).ok().filter(|text| !text.is_empty()))
    }

    fn new(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let numbers = |name: &str, otherwise: &str| -> Result<Vec<usize>> {
            let text = variable(name).unwrap_or_else(|| otherwise.to_owned());
            let words = text.split([',', ' ']).filter(|word| !word.is_empty() && *word != "0");
            words.map(|word| word.parse().with_context(|| format!("{name}={text}: {word} is no number"))).collect()
        };
        let one = |name: &str, otherwise: &str| -> Result<usize> {
            numbers(name, otherwise)?.first().copied().with_context(|| format!("{name} needs a number above zero"))
        };
        let words = |name: &str, otherwise: &str| -> Vec<String> {
            let text = variable(name).unwrap_or_else(|| otherwise.to_owned());
            text.split([',', ' ']).filter(|word| !word.is_empty()).map(ToOwned::to_owned).collect()
        };
        let path = |name: &str, otherwise: &str| PathBuf::from(variable(name).unwrap_or_else(|| otherwise.to_owned()));
        let settings = Self {
            bursts: numbers("PODS", "100,1000")?,
            rounds: one("ROUNDS", "1")?,
            rates: numbers("RATES", "10,50")?,
            seconds: Duration::from_secs(one("SECONDS_EACH", "20")? as u64),
            subjects: words("SUBJECTS", "plain,null,longshore"),
            out: path("OUT", "target/bench"),
            longshore: path("LONGSHORE", "target/release/longshore"),
            flags: words("FLAGS", ""),
            keep: variable("KEEP").is_some(),
            scale: numbers("SCALE", "0")?,
            streams: variable("STREAMS").is_some(),
        };
        for subject in &settings.subjects {
            ensure!(["plain", "null", "longshore"].contains(&subject.as_str()), "SUBJECTS: nobody knows {subject}");
        }
        Ok(settings)
    }

    /// The most pods that there are at a time.
    pub(crate) fn most(&self) -> usize {
        self.bursts.iter().copied().max().unwrap_or_default().max(1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Settings> {
        Settings::new(|name| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn sizes_are_a_list() {
        let settings = read(&[("PODS", "100, 5000"), ("RATES", "0")]).unwrap();
        assert_eq!((settings.bursts, settings.rates), (vec![100, 5000], vec![]));
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (pair, told) in [(("PODS", "x"), "PODS=x"), (("SUBJECTS", "liqo"), "liqo"), (("ROUNDS", "0"), "ROUNDS")] {
            let error = format!("{:#}", read(&[pair]).unwrap_err());
            assert!(error.contains(told), "{error}");
        }
    }
}
