//! Which target gets a pod. Pure.

use std::fmt;

use super::requests::Requests;

/// How one of several targets is preferred to the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// The one with the fewest pods for its weight.
    #[default]
    Spread,
    /// The fullest one in which the pod still fits.
    Pack,
    /// The first one in the list in which the pod fits.
    Ordered,
}

/// A target as it is now.
#[derive(Clone, Debug, Default)]
pub struct Candidate {
    /// Its name.
    pub name: String,
    /// How many pods it should get in proportion to the others; 0 means none but those that fit nowhere else.
    pub weight: u32,
    /// Why it cannot take any pod now, if so.
    pub trouble: Option<String>,
    /// Why it would not take this pod now, although it may later: none of its nodes matches, or has room.
    pub doubt: Option<String>,
    /// What its nodes offer, by resource; empty where that is not known.
    pub allocatable: Requests,
    /// What the pods that we have there ask for, by resource; `pods` is their number.
    pub committed: Requests,
}

/// Why no target will do: each target with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoTarget(pub Vec<(String, String)>);

impl fmt::Display for NoTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, why)) in self.0.iter().enumerate() {
            write!(f, "{}{name}: {why}", if i == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

/// The index of the candidate that gets a pod with these requests, and why. The one that is `shunned` gets it only if no
/// other will do. Where there is doubt of all, one of them gets it all the same, for its autoscaler may make room; but the
/// shunned one keeps it rather than send it to another where there is doubt.
///
/// # Errors
/// When none will do.
pub fn choose(
    strategy: Strategy,
    requests: &Requests,
    candidates: &[Candidate],
    shunned: Option<usize>,
) -> Result<(usize, String), NoTarget> {
    let mut fitting = vec![];
    let mut refusals = vec![];
    for (index, candidate) in candidates.iter().enumerate() {
        match refusal(requests, candidate) {
            None => fitting.push(index),
            Some(why) => refusals.push((candidate.name.clone(), why)),
        }
    }
    let rank = |index: &usize| {
        let candidate = &candidates[*index];
        let last_resort = match candidate.doubt {
            _ if Some(*index) == shunned => 2,
            Some(_) => 3,
            None => u8::from(candidate.weight == 0),
        };
        // For each unit of weight, in thousandths; one more pod counts, so that weights count from the first on.
        let pods = candidate.committed.get("pods").copied().unwrap_or_default();
        let share = (pods + super::quantity::Quantity::whole(1)).ratio(candidate.weight.max(1));
        let score = match strategy {
            Strategy::Spread => share,
            Strategy::Pack => i128::MAX - fullness(candidate),
            Strategy::Ordered => 0,
        };
        (last_resort, score, *index)
    };
    let Some(best) = fitting.iter().min_by_key(|index| rank(index)).copied() else { return Err(NoTarget(refusals)) };
    let why = match strategy {
        _ if fitting.len() == 1 => "it is the only one that will do".to_owned(),
        Strategy::Spread => "it has the fewest pods for its weight".to_owned(),
        Strategy::Pack => "it is the fullest one with room".to_owned(),
        Strategy::Ordered => "it is the first one with room".to_owned(),
    };
    let chosen = &candidates[best];
    let doubts = candidates.iter().filter(|one| one.trouble.is_none() && one.name != chosen.name);
    refusals.extend(doubts.filter_map(|one| Some((one.name.clone(), one.doubt.clone()?))));
    let why = match &chosen.doubt {
        Some(doubt) => format!("no other will do, and it may yet: {doubt}"),
        // Those that there is doubt of were none to choose.
        None if fitting.iter().all(|index| *index == best || candidates[*index].doubt.is_some()) => {
            "it is the only one that will do".to_owned()
        }
        None => why,
    };
    let why = if refusals.is_empty() { why } else { format!("{why} ({})", NoTarget(refusals)) };
    Ok((best, why))
}

fn refusal(requests: &Requests, candidate: &Candidate) -> Option<String> {
    if let Some(trouble) = &candidate.trouble {
        return Some(trouble.clone());
    }
    if candidate.allocatable.is_empty() {
        return None;
    }
    requests.iter().find_map(|(name, amount)| {
        let offered = candidate.allocatable.get(name).copied().unwrap_or_default();
        let free = offered.minus(candidate.committed.get(name).copied().unwrap_or_default());
        (*amount > free).then(|| format!("{} of {name} asked, {} free", amount.print(name), free.print(name)))
    })
}

/// How full the fullest of its resources is, in millionths.
fn fullness(candidate: &Candidate) -> i128 {
    let part = |(name, offered): (&String, &super::quantity::Quantity)| {
        candidate.committed.get(name).map(|used| used.millionths_of(*offered))
    };
    candidate.allocatable.iter().filter_map(part).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::quantity::Quantity;

    fn amounts(cpu: i64, pods: i64) -> Requests {
        [("cpu".to_owned(), Quantity::whole(cpu)), ("pods".to_owned(), Quantity::whole(pods))].into()
    }

    fn target(name: &str, offered: i64, used: i64) -> Candidate {
        Candidate {
            name: name.into(),
            weight: 1,
            trouble: None,
            doubt: None,
            allocatable: amounts(offered, 100),
            committed: amounts(used, used),
        }
    }

    fn chosen(strategy: Strategy, candidates: &[Candidate], shunned: Option<usize>) -> usize {
        choose(strategy, &amounts(1, 1), candidates, shunned).unwrap().0
    }

    #[test]
    fn each_strategy_has_its_own_preference() {
        let candidates = [target("a", 10, 4), target("b", 10, 2), target("c", 10, 6)];
        assert_eq!(chosen(Strategy::Spread, &candidates, None), 1);
        assert_eq!(chosen(Strategy::Pack, &candidates, None), 2);
        assert_eq!(chosen(Strategy::Ordered, &candidates, None), 0);
    }

    #[test]
    fn weights_share_the_pods() {
        let mut candidates = [target("a", 100, 0), target("b", 100, 0)];
        candidates[0].weight = 3;
        for _ in 0..40 {
            let index = chosen(Strategy::Spread, &candidates, None);
            let more = amounts(1, 1);
            super::super::requests::add(&mut candidates[index].committed, &more);
        }
        assert_eq!(candidates[0].committed["pods"], Quantity::whole(30));
        candidates[0].weight = 0;
        assert_eq!(chosen(Strategy::Spread, &candidates, None), 1);
        candidates[1].trouble = Some("it does not answer".into());
        assert_eq!(chosen(Strategy::Spread, &candidates, None), 0, "better than nowhere");
    }

    #[test]
    fn a_target_that_is_full_or_in_trouble_gets_nothing_and_it_is_said_why() {
        let mut candidates = [target("a", 4, 4), target("b", 9, 1)];
        let (index, why) = choose(Strategy::Ordered, &amounts(1, 1), &candidates, None).unwrap();
        assert_eq!((index, why.as_str()), (1, "it is the only one that will do (a: 1 of cpu asked, 0 free)"));
        candidates[1].trouble = Some("it does not answer".into());
        let none = choose(Strategy::Spread, &amounts(1, 1), &candidates, None).unwrap_err();
        assert_eq!(none.to_string(), "a: 1 of cpu asked, 0 free; b: it does not answer");
    }

    #[test]
    fn what_is_not_offered_does_not_fit() {
        let mut requests = amounts(1, 1);
        requests.insert("nvidia.com/gpu".into(), Quantity::whole(1));
        let mut candidates = [target("a", 4, 0), target("b", 4, 0)];
        candidates[1].allocatable.insert("nvidia.com/gpu".into(), Quantity::whole(8));
        assert_eq!(choose(Strategy::Ordered, &requests, &candidates, None).unwrap().0, 1);
    }

    #[test]
    fn the_site_that_did_not_work_comes_last() {
        let candidates = [target("a", 10, 0), target("b", 10, 5)];
        assert_eq!(chosen(Strategy::Spread, &candidates, Some(0)), 1);
        assert_eq!(chosen(Strategy::Spread, &candidates[..1], Some(0)), 0);
    }

    #[test]
    fn a_target_where_nothing_matches_comes_last_and_gets_its_chance() {
        let mut candidates = [target("a", 10, 0), target("b", 10, 5)];
        candidates[0].doubt = Some("none of its 2 nodes would take it now".into());
        let (index, why) = choose(Strategy::Ordered, &amounts(1, 1), &candidates, None).unwrap();
        assert_eq!(index, 1);
        assert!(why.starts_with("it is the only one that will do (a: none of its 2 nodes"), "{why}");
        candidates[1].weight = 0;
        assert_eq!(chosen(Strategy::Ordered, &candidates, None), 1, "better than where nothing matches");
        assert_eq!(chosen(Strategy::Ordered, &candidates, Some(1)), 1, "it does not move to where nothing matches");
        candidates[1].doubt = candidates[0].doubt.clone();
        let (index, why) = choose(Strategy::Ordered, &amounts(1, 1), &candidates, None).unwrap();
        assert_eq!(index, 0);
        assert!(why.starts_with("no other will do, and it may yet: none of its 2 nodes"), "{why}");
    }

    #[test]
    fn a_target_of_which_nothing_is_known_is_taken_at_its_word() {
        let unknown = Candidate { name: "a".into(), weight: 1, ..Candidate::default() };
        assert_eq!(chosen(Strategy::Spread, &[unknown], None), 0);
    }
}
