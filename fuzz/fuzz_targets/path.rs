//! Request lines: what is a resource has a name for it, and what is none stays as it was.
#![no_main]

use apiserver::RequestInfo;
use apiserver::handlers::options::{ListOptions, Query, WriteOptions};
use http::Method;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (path, query) = text.split_once('?').map_or((text, None), |(p, q)| (p, Some(q)));
    for method in [Method::GET, Method::POST, Method::DELETE, Method::PATCH] {
        let info = RequestInfo::parse(&method, path, query);
        assert_eq!(info.path, path);
        assert!(!info.verb.is_empty());
        assert!(info.is_resource || info.resource.is_empty());
        let query = Query::parse(query);
        let _ = ListOptions::parse(&query, info.verb == "watch");
        let _ = WriteOptions::parse(&query, &method);
    }
});
