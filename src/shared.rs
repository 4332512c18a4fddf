//! Values that many have alike, each kept once.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

/// Below so many, those that nobody has any more may stay.
const FEW: usize = 64;

/// Values by their equality. What nobody else holds goes at the latest when twice as many are there as were still held when this
/// was last looked at, so that nobody has to tell when he is done.
#[derive(Debug)]
pub(crate) struct Shared<T: ?Sized> {
    all: HashSet<Arc<T>>,
    limit: usize,
}

impl<T: ?Sized> Default for Shared<T> {
    fn default() -> Self {
        Self { all: HashSet::new(), limit: FEW }
    }
}

impl<T: Eq + Hash + ?Sized> Shared<T> {
    /// The one that is kept of those that are equal to this.
    pub(crate) fn one(&mut self, value: Arc<T>) -> Arc<T> {
        if let Some(known) = self.all.get(&value) {
            return known.clone();
        }
        if self.all.len() >= self.limit {
            self.all.retain(|known| Arc::strong_count(known) > 1);
            self.limit = FEW.max(self.all.len().saturating_mul(2));
        }
        self.all.insert(value.clone());
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_are_one() {
        let mut shared = Shared::<str>::default();
        let (first, second, other) = (shared.one("a".into()), shared.one("a".into()), shared.one("b".into()));
        assert!(Arc::ptr_eq(&first, &second) && !Arc::ptr_eq(&first, &other));
    }

    #[test]
    fn what_nobody_holds_goes() {
        let mut shared = Shared::<str>::default();
        let held: Vec<_> = (0..100).map(|index| shared.one(format!("held {index}").into())).collect();
        for index in 0..10_000 {
            drop(shared.one(format!("{index}").into()));
        }
        assert!(shared.all.len() <= 2 * held.len() + 1, "{}", shared.all.len());
        assert!(held.iter().all(|one| Arc::ptr_eq(one, &shared.one(one.clone()))));
    }
}
