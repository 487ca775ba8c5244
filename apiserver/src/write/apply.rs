//! Server-side apply.

use axum::response::Response;

use super::Writer;
use crate::handlers::Call;
use crate::status::ApiError;

/// Answers an apply.
pub(super) async fn handle(
    call: &Call<'_>,
    writer: Writer<'_>,
    body: &[u8],
    subresource: Option<&str>,
) -> Result<Response, ApiError> {
    let _ = (call, writer, body, subresource);
    Err(ApiError::UnsupportedMediaType("apply is not supported yet".to_owned()))
}
