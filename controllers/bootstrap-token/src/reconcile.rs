//! Observe, plan, apply, for `cluster-info` and for one token. All the I/O is here.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kit::{CallError, RESYNC, Requeue, call};
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use tracing::info;

use crate::token::{End, Token};
use crate::{Context, plan, token};

/// Brings the signatures in `cluster-info` up to date.
pub(crate) async fn sign(map: Arc<ConfigMap>, context: Arc<Context>) -> Result<Requeue, CallError> {
    let tokens: Vec<Token> =
        context.tokens.all().iter().filter_map(|secret| Token::read(secret)).collect();
    let data = map.data.clone().unwrap_or_default();
    let Some(data) = plan::sign(&data, &tokens, context.stage.clock.now()) else {
        return Ok(Requeue::requeue(RESYNC));
    };
    let mut signed = (*map).clone();
    signed.data = Some(data);
    let maps: Api<ConfigMap> = Api::namespaced(context.stage.client.clone(), plan::PUBLIC);
    let name = map.name_any();
    let written = maps.replace(&name, &PostParams::default(), &signed).await;
    written.map_err(|source| CallError::new("sign", name, source))?;
    info!(n_tokens = tokens.len(), "cluster-info signed");
    Ok(Requeue::requeue(RESYNC))
}

/// Deletes a token that is over, or looks again when it will be.
pub(crate) async fn clean(
    secret: Arc<Secret>,
    context: Arc<Context>,
) -> Result<Requeue, CallError> {
    let (end, now) = (token::end(&secret), context.stage.clock.now());
    if !end.is_past(now) {
        let left = match end {
            End::At(end) => end.duration_since(now).unsigned_abs(),
            End::Never | End::Unreadable => RESYNC,
        };
        return Ok(Requeue::requeue(left.min(RESYNC)));
    }
    let secrets: Api<Secret> = Api::namespaced(context.stage.client.clone(), token::NAMESPACE);
    let name = secret.name_any();
    match secrets.delete(&name, &call::only(secret.uid())).await {
        Ok(_) => info!(name, "bootstrap token is over, deleted"),
        Err(error) if call::is_gone(&error) => (),
        Err(source) => return Err(CallError::new("delete", name, source)),
    }
    Ok(Requeue::requeue(RESYNC))
}
