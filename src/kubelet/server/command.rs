//! A command in a container whose output is the answer to one request (`getRun` in `pkg/kubelet/server/server.go`).
//!
//! A provider has no such call, and needs none: its exec is used, by the WebSocket protocol of Kubernetes
//! (`k8s.io/apimachinery/pkg/util/remotecommand`), in which a message begins with the number of its stream.

use bytes::Bytes;
use futures::StreamExt;
use http::header::{
    CONNECTION, CONTENT_TYPE, HeaderValue, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt, Limited};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::answer::Refusal;
use crate::kubelet::provider::{Tunnel, Upgrade};

/// How much a form may hold, in bytes: as much as an API server passes on in a URL.
const FORM: usize = 1024 * 1024;

/// How much output one answer may hold, in bytes.
const OUTPUT: usize = 16 * 1024 * 1024;

const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;

/// The form in a request's body, if it has one.
pub(super) async fn form<B>(headers: &HeaderMap, body: &mut B) -> Result<String, Refusal>
where
    B: http_body::Body + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let is_form = headers.get(CONTENT_TYPE).is_some_and(|kind| {
        kind.to_str().is_ok_and(|kind| kind.trim_start().starts_with("application/x-www-form-urlencoded"))
    });
    if !is_form {
        return Ok(String::new());
    }
    let unreadable = || Refusal::new(StatusCode::BAD_REQUEST, "the form in the body cannot be read");
    let read = Limited::new(body, FORM).collect().await.map_err(|_| unreadable())?;
    String::from_utf8(read.to_bytes().to_vec()).map_err(|_| unreadable())
}

/// Hears a command to its end, by the far end of an exec that was opened with [`upgrade`], and answers what it wrote: all of
/// standard output, then all of standard error.
pub(super) async fn run(far: Tunnel, command: &str) -> Result<Bytes, Refusal> {
    let mut far = WebSocketStream::from_raw_socket(far.io, Role::Client, None).await;
    let mut said = Said::default();
    while let Some(message) = far.next().await {
        // An end without a word is found below.
        let Ok(message) = message else { break };
        if message.is_binary() {
            said.hear(&message.into_data())?;
        }
    }
    said.conclude(command)
}

/// A request for the protocol of channels.
pub(super) fn upgrade() -> Upgrade {
    let mut headers = HeaderMap::new();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("v4.channel.k8s.io"));
    // Base64 always makes a header.
    if let Ok(key) = generate_key().parse() {
        headers.insert(SEC_WEBSOCKET_KEY, key);
    }
    Upgrade { method: Method::GET, headers }
}

/// What has come from a command.
#[derive(Default)]
struct Said {
    out: Vec<u8>,
    errors: Vec<u8>,
    /// How it ended.
    status: Option<Vec<u8>>,
}

impl Said {
    fn hear(&mut self, message: &[u8]) -> Result<(), Refusal> {
        match message {
            [STDOUT, bytes @ ..] => self.out.extend_from_slice(bytes),
            [STDERR, bytes @ ..] => self.errors.extend_from_slice(bytes),
            [STATUS, bytes @ ..] => self.status = Some(bytes.to_vec()),
            _ => {}
        }
        if self.out.len() + self.errors.len() > OUTPUT {
            let message = "the command wrote more than 16 MiB, which is too much for one answer; use exec";
            return Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, message));
        }
        Ok(())
    }

    fn conclude(mut self, command: &str) -> Result<Bytes, Refusal> {
        let lost = || Refusal::new(StatusCode::BAD_GATEWAY, "the stream broke before the command had ended");
        let status: Status = serde_json::from_slice(&self.status.ok_or_else(lost)?).map_err(|_| lost())?;
        if status.status.as_deref() == Some("Success") {
            self.out.append(&mut self.errors);
            return Ok(self.out.into());
        }
        let how = status.message.unwrap_or_default();
        let message = format!("command '{command}' failed: {how}: {}", String::from_utf8_lossy(&self.errors));
        Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(messages: &[(u8, &str)]) -> Result<Bytes, (StatusCode, String)> {
        let mut said = Said::default();
        for (stream, text) in messages {
            said.hear(&[&[*stream], text.as_bytes()].concat()).unwrap();
        }
        said.conclude("ls /none").map_err(|refusal| match refusal {
            Refusal::Told(status, message) => (status, message),
            Refusal::PassedOn(_) => panic!("nobody else has answered"),
        })
    }

    #[test]
    fn output_comes_before_errors() {
        let success = r#"{"metadata": {}, "status": "Success"}"#;
        assert_eq!(told(&[(STDERR, "e"), (STDOUT, "a"), (STDOUT, "b"), (STATUS, success)]).unwrap(), "abe");
        assert_eq!(told(&[(STATUS, success)]).unwrap(), "");
    }

    #[test]
    fn a_failure_says_why() {
        let failure = r#"{"metadata": {}, "status": "Failure", "message": "exit code 2"}"#;
        let (status, message) = told(&[(STDOUT, "a"), (STDERR, "no such file"), (STATUS, failure)]).unwrap_err();
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(message, "command 'ls /none' failed: exit code 2: no such file");
    }

    #[test]
    fn an_end_without_a_word_is_no_success() {
        for messages in [&[(STDOUT, "a")][..], &[(STATUS, "")], &[(STATUS, "{")]] {
            assert_eq!(told(messages).unwrap_err().0, StatusCode::BAD_GATEWAY);
        }
    }

    #[test]
    fn too_much_is_refused() {
        let mut said = Said::default();
        let piece = vec![STDOUT; 1024 * 1024];
        assert!((0..17).any(|_| said.hear(&piece).is_err()));
    }
}
