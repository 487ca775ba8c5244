//! Events that are larger than whoever takes them can bear.
//!
//! Source: upstream `apiserver/plugin/pkg/audit/truncate`.

use std::sync::Arc;

use super::event::Event;
use super::flags::TruncateOptions;

/// The event, without its objects if it is too large with them; `None` if it is too large without, too.
pub(super) fn fit(event: &Arc<Event>, limits: &TruncateOptions) -> Option<Arc<Event>> {
    let fits = |event: &Event| event.to_json().len() <= limits.max_event_size;
    if fits(event) {
        return Some(event.clone());
    }
    let mut short = (**event).clone();
    (short.request_object, short.response_object) = (None, None);
    short.annotations.insert("audit.k8s.io/truncated".to_owned(), "true".to_owned());
    fits(&short).then(|| Arc::new(short))
}

/// Cuts a batch into some that are not too large.
pub(super) fn split<'a>(
    batch: &'a [Arc<Event>],
    limits: &TruncateOptions,
) -> Vec<&'a [Arc<Event>]> {
    let (mut parts, mut from, mut size) = (Vec::new(), 0, 0);
    for (at, event) in batch.iter().enumerate() {
        let next = event.to_json().len();
        if at > from && size + next > limits.max_batch_size {
            parts.push(&batch[from..at]);
            (from, size) = (at, 0);
        }
        size += next;
    }
    parts.push(&batch[from..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::super::event::Level;
    use super::*;
    use serde_json::json;

    fn event(object: usize, uri: usize) -> Arc<Event> {
        let mut event = Event::new(Level::Request, "id".to_owned(), jiff::Timestamp::UNIX_EPOCH);
        event.request_object = Some(Arc::new(json!("x".repeat(object))));
        event.request_uri = "u".repeat(uri);
        Arc::new(event)
    }

    #[test]
    fn a_large_event_loses_its_objects_before_it_is_lost() {
        let limits = TruncateOptions { max_event_size: 2000, max_batch_size: 0 };
        let whole = event(100, 0);
        assert!(Arc::ptr_eq(&fit(&whole, &limits).unwrap(), &whole));
        let short = fit(&event(5000, 0), &limits).unwrap();
        assert!(short.request_object.is_none());
        assert_eq!(short.annotations["audit.k8s.io/truncated"], "true");
        assert!(fit(&event(0, 5000), &limits).is_none());
    }

    #[test]
    fn batches_are_cut_between_events() {
        let batch: Vec<_> = (0..5).map(|_| event(1000, 0)).collect();
        let one = batch[0].to_json().len();
        let lengths = |max_batch_size| -> Vec<usize> {
            let limits = TruncateOptions { max_event_size: 0, max_batch_size };
            split(&batch, &limits).iter().map(|part| part.len()).collect()
        };
        assert_eq!(lengths(2 * one), [2, 2, 1]);
        assert_eq!(lengths(10 * one), [5]);
        assert_eq!(lengths(1), [1, 1, 1, 1, 1]);
    }
}
