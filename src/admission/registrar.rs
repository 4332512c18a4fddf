//! Keeping the MutatingWebhookConfiguration as it should be.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;

use super::certificates::Material;
use super::registration::{Registration, covers};
use crate::errors::chain;
use crate::provider::names;

/// How long it rests after each write, so that two who want different things do not keep an API server busy.
const REST: Duration = Duration::from_secs(3);

/// Writes it whenever it is not as it should be, for ever.
pub(super) async fn register(
    host: Client,
    registration: Registration,
    mut material: watch::Receiver<Option<Arc<Material>>>,
) {
    let api: Api<MutatingWebhookConfiguration> = Api::all(host);
    let config = watcher::Config::default().fields(&format!("metadata.name={}", registration.name));
    let mut stream = pin!(watcher(api.clone(), config).backoff(crate::backoff::of_watches()).boxed());
    // Unknown before the first list is complete; null where there is none.
    let (mut live, mut listed) = (None, Value::Null);
    let (mut again, mut complained) = (false, false);
    loop {
        tokio::select! {
            next = stream.try_next() => match next {
                Ok(Some(watcher::Event::Init)) => { listed = Value::Null; continue }
                Ok(Some(watcher::Event::InitApply(object))) => { listed = json!(object); continue }
                Ok(Some(watcher::Event::InitDone)) => live = Some(listed.take()),
                Ok(Some(watcher::Event::Apply(object))) => live = Some(json!(object)),
                Ok(Some(watcher::Event::Delete(_))) => live = Some(Value::Null),
                Ok(None) => return,
                Err(error) => {
                    complain(&mut complained, &chain(&error));
                    continue;
                }
            },
            changed = material.changed() => if changed.is_err() { return },
            () = sleep(REST), if again => {}
        }
        again = false;
        let (Some(live), Some(material)) = (&mut live, material.borrow().clone()) else { continue };
        let wanted = registration.document(&material.authorities);
        if covers(live, &wanted) {
            complained = false;
            continue;
        }
        let params = PatchParams::apply(names::FIELD_MANAGER).force();
        match api.patch(&registration.name, &params, &Patch::Apply(&wanted)).await {
            Ok(written) => {
                tracing::info!(name = registration.name, "wrote the MutatingWebhookConfiguration");
                *live = json!(written);
                sleep(REST).await;
            }
            Err(error) => {
                complain(&mut complained, &chain(&error));
                again = true;
            }
        }
    }
}

fn complain(complained: &mut bool, error: &str) {
    if !std::mem::replace(complained, true) {
        tracing::error!(
            error,
            "the MutatingWebhookConfiguration cannot be kept; grant get, list, watch, create and patch on \
             mutatingwebhookconfigurations, or run without --webhook-register and apply what `longshore webhook` prints; trying \
             again"
        );
    }
}
