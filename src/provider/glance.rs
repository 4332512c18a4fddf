//! As much of a delegate's spec as whoever follows delegates looks at. Pure.
//!
//! A spec is most of a delegate's text, and each change of a status brings all of it past.

use crate::kubelet::document::{Keep, PodDocument};

/// For [`super::feedback::obstacle`] and [`super::requests::of`].
const SPEC: Keep = Keep::Fields(&[
    ("nodeName", Keep::All),
    ("schedulerName", Keep::All),
    ("resourceClaims", Keep::All),
    ("resources", Keep::All),
    ("overhead", Keep::All),
    ("containers", Keep::Each(&CONTAINER)),
    ("initContainers", Keep::Each(&CONTAINER)),
]);

const CONTAINER: Keep = Keep::Fields(&[("resources", Keep::All), ("restartPolicy", Keep::All)]);

/// Reads no more of a delegate's spec than these look at, unless it was read already. The text stays whole.
pub(super) fn glance(delegate: &mut PodDocument) {
    delegate.spec.skim(&SPEC);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::provider::{feedback, requests};

    #[test]
    fn at_a_glance_it_is_the_same() {
        let container = |cpu: &str, policy: &str| {
            json!({"name": "c", "image": "i", "env": [{"name": "A", "value": "b"}], "restartPolicy": policy,
                "resources": {"requests": {"cpu": cpu}, "limits": {"memory": "1Gi"}}})
        };
        let claims = json!([{"name": "gpu", "resourceClaimTemplateName": "big"}]);
        let specs = [
            json!({"nodeName": "n", "containers": [container("1", "")], "initContainers": [container("2", "Always")],
                "overhead": {"cpu": "1"}, "resources": {"requests": {"memory": "3Gi"}}, "volumes": [{"name": "v"}]}),
            json!({"schedulerName": "mine", "containers": [container("500m", "")]}),
            json!({"resourceClaims": claims, "containers": [], "tolerations": [{"key": "k"}]}),
            json!({}),
            json!({"containers": 5, "nodeName": "n"}),
        ];
        for spec in specs {
            let text =
                json!({"metadata": {"namespace": "far"}, "spec": spec, "status": {"phase": "Pending"}}).to_string();
            let read = || serde_json::from_str::<PodDocument>(&text).unwrap();
            let (whole, mut glanced) = (read(), read());
            glance(&mut glanced);
            assert_eq!(feedback::obstacle(&glanced), feedback::obstacle(&whole));
            assert_eq!(requests::of(&glanced.spec), requests::of(&whole.spec));
            assert_eq!(glanced.to_text().unwrap(), whole.to_text().unwrap());
        }
    }
}
