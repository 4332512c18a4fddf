//! Long lists, asked for a part at a time.

use kube::api::{ListMeta, ListParams};

/// How many objects are asked for at a time: as many as client-go asks for.
pub(crate) const PAGE: u32 = 500;

/// How to ask for what follows this part of a list; `None` after the last.
pub(crate) fn next(asked: ListParams, list: &ListMeta) -> Option<ListParams> {
    let token = list.continue_.as_deref().filter(|token| !token.is_empty())?;
    Some(asked.continue_token(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_goes_on_until_there_is_no_token() {
        let asked = || ListParams::default().labels("a=b").limit(PAGE);
        let after = |token: Option<&str>| {
            next(asked(), &ListMeta { continue_: token.map(str::to_owned), ..ListMeta::default() })
        };
        assert_eq!(after(Some("t")), Some(asked().continue_token("t")));
        assert_eq!((after(Some("")), after(None)), (None, None));
    }
}
