//! The questions of an API server and the answers to them: `admission.k8s.io/v1`. Pure.

use k8s_openapi::ByteString;
use serde::Deserialize;
use serde_json::{Value, json};

use super::decide::{Admitted, Refusal};

/// A question.
#[derive(Deserialize)]
pub(super) struct Review {
    #[serde(rename = "apiVersion", default)]
    version: String,
    pub(super) request: Request,
}

/// What is asked about.
#[derive(Deserialize)]
pub(super) struct Request {
    uid: String,
    #[serde(default)]
    pub(super) namespace: String,
    #[serde(default)]
    pub(super) object: Value,
    #[serde(default)]
    operation: String,
    #[serde(default)]
    resource: Value,
    #[serde(default, rename = "subResource")]
    subresource: Option<String>,
}

impl Request {
    /// Whether a pod is about to be created, which is all that we want to be asked about.
    pub(super) fn is_new_pod(&self) -> bool {
        self.operation == "CREATE"
            && self.resource["group"] == ""
            && self.resource["resource"] == "pods"
            && self.subresource.as_ref().is_none_or(String::is_empty)
    }
}

/// Reads a question.
pub(super) fn read(body: &[u8]) -> Result<Review, String> {
    let review: Review =
        serde_json::from_slice(body).map_err(|error| format!("this is no AdmissionReview: {error}"))?;
    if review.version != "admission.k8s.io/v1" {
        return Err(format!(
            "an AdmissionReview of {:?} is not understood; it has to be of admission.k8s.io/v1",
            review.version
        ));
    }
    Ok(review)
}

/// The answer to it; `Err` of a failure that time may cure.
pub(super) fn answer(request: &Request, decision: Result<Result<Admitted, Refusal>, String>) -> Value {
    let status = |code: u16, reason: &str, message: String| {
        json!({"uid": request.uid, "allowed": false, "status": {"code": code, "reason": reason,
            "message": format!("longshore: {message}")}})
    };
    let response = match decision {
        Ok(Ok(admitted)) => {
            let mut response = json!({"uid": request.uid, "allowed": true});
            if !admitted.warnings.is_empty() {
                response["warnings"] = json!(admitted.warnings);
            }
            if !admitted.patch.is_empty() {
                response["patchType"] = "JSONPatch".into();
                response["patch"] = json!(ByteString(Value::Array(admitted.patch).to_string().into_bytes()));
            }
            response
        }
        Ok(Err(Refusal(message))) => status(422, "Invalid", message),
        Err(message) => status(503, "ServiceUnavailable", message),
    };
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn review(change: &[(&str, Value)]) -> Value {
        let mut review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": "7", "namespace": "n", "operation": "CREATE", "object": {"metadata": {}},
            "resource": {"group": "", "version": "v1", "resource": "pods"}}});
        for (field, value) in change {
            review["request"][*field] = value.clone();
        }
        review
    }

    #[test]
    fn only_new_pods_are_understood() {
        let is_new =
            |change: &[(&str, Value)]| read(review(change).to_string().as_bytes()).unwrap().request.is_new_pod();
        assert!(is_new(&[]));
        assert!(!is_new(&[("operation", "UPDATE".into())]));
        assert!(!is_new(&[("subResource", "binding".into())]));
        assert!(!is_new(&[("resource", json!({"group": "", "resource": "nodes"}))]));
        assert!(read(b"{}").is_err_and(|why| why.contains("no AdmissionReview")));
        let mut old = review(&[]);
        old["apiVersion"] = "admission.k8s.io/v1beta1".into();
        assert!(read(old.to_string().as_bytes()).is_err_and(|why| why.contains("v1beta1")));
    }

    #[test]
    fn answers_name_the_question() {
        let request = read(review(&[]).to_string().as_bytes()).unwrap().request;
        let unchanged = answer(&request, Ok(Ok(Admitted::default())));
        assert_eq!(unchanged["response"], json!({"uid": "7", "allowed": true}));
        let admitted = Admitted { patch: vec![json!(1)], warnings: vec!["w".into()] };
        assert_eq!(
            answer(&request, Ok(Ok(admitted)))["response"],
            json!({"uid": "7", "allowed": true, "warnings": ["w"], "patchType": "JSONPatch", "patch": "WzFd"})
        );
        let refused = answer(&request, Ok(Err(Refusal("no".into()))));
        assert_eq!(refused["response"]["status"]["message"], "longshore: no");
        assert_eq!(answer(&request, Err("later".into()))["response"]["status"]["code"], 503);
    }
}
