//! What is asked for, in the environment: it is what one types before `make chaos`.

use std::env;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// One storm for each, one after the other.
    pub(crate) seeds: Vec<u64>,
    /// How long faults and users are at work.
    pub(crate) duration: Duration,
    /// How many pods there are at a time, more or less.
    pub(crate) pods: usize,
    /// How many targets the virtual node has.
    pub(crate) targets: usize,
    /// Real kubelets and containers instead of simulated nodes.
    pub(crate) real: bool,
}

impl Settings {
    pub(crate) fn from_environment() -> Result<Self> {
        Self::new(|name| env::var(name).ok().filter(|text| !text.is_empty()))
    }

    fn new(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let number = |name: &str, otherwise: u64| match variable(name) {
            Some(text) => text.trim().parse().with_context(|| format!("{name}={text} is no number")),
            None => Ok(otherwise),
        };
        let real = number("REAL", 0)? > 0;
        let seeds = match variable("SEED") {
            Some(text) => text
                .split([',', ' '])
                .filter(|word| !word.is_empty())
                .map(|word| word.parse().with_context(|| format!("SEED={text}: {word} is no number")))
                .collect::<Result<_>>()?,
            None => vec![SystemTime::UNIX_EPOCH.elapsed().map_or(1, |time| u64::from(time.subsec_nanos()))],
        };
        let settings = Self {
            seeds,
            duration: Duration::from_secs(number("DURATION", 120)?),
            pods: usize::try_from(number("PODS", if real { 24 } else { 200 })?)?,
            targets: usize::try_from(number("TARGETS", if real { 1 } else { 2 })?)?,
            real,
        };
        ensure!(!settings.seeds.is_empty(), "SEED names no seed");
        ensure!((1..=2).contains(&settings.targets), "TARGETS={} is neither 1 nor 2", settings.targets);
        ensure!((8..=2000).contains(&settings.pods), "PODS={} is not within 8 and 2000", settings.pods);
        Ok(settings)
    }

    /// What one types for a storm like that of this seed.
    pub(crate) fn command(&self, seed: u64) -> String {
        let Self { duration, pods, targets, real, .. } = self;
        let real = if *real { "REAL=1 " } else { "" };
        format!("{real}SEED={seed} DURATION={} PODS={pods} TARGETS={targets} make chaos", duration.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Settings> {
        Settings::new(|name| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn the_command_says_all_that_was_asked_for() {
        let settings = read(&[("SEED", "7, 8"), ("DURATION", "30"), ("REAL", "1")]).unwrap();
        assert_eq!(settings.seeds, [7, 8]);
        assert_eq!(settings.command(8), "REAL=1 SEED=8 DURATION=30 PODS=24 TARGETS=1 make chaos");
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (pair, told) in [(("SEED", "x"), "SEED=x"), (("TARGETS", "3"), "TARGETS=3"), (("PODS", "1"), "PODS=1")] {
            let error = format!("{:#}", read(&[pair]).unwrap_err());
            assert!(error.contains(told), "{error}");
        }
    }
}
