//! What compiling costs: time and resident memory for all of upstream's types and CRDs.
#![expect(clippy::unwrap_used, reason = "a measurement may fail loudly")]
use schema::{Schema, crdgen, facts};
use std::time::Instant;
fn rss() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4
}
fn main() {
    let before = rss();
    let begun = Instant::now();
    let kinds: Vec<Schema> =
        ["Pod", "Service", "Node", "ConfigMap", "Secret", "Event", "Namespace"]
            .iter()
            .map(|kind| Schema::for_gvk("", "v1", kind).unwrap())
            .collect();
    println!("core: {:?}, {} KiB", begun.elapsed(), rss() - before);
    let begun = Instant::now();
    let before = rss();
    let crds = crdgen::definitions();
    println!("crdgen: {:?}, {} KiB", begun.elapsed(), rss() - before);
    let begun = Instant::now();
    let before = rss();
    let schemas: Vec<Schema> = crds
        .iter()
        .flat_map(|crd| crd["spec"]["versions"].as_array().unwrap())
        .map(|v| Schema::from_crd(&v["schema"]["openAPIV3Schema"]).unwrap())
        .collect();
    println!("{} from CRDs: {:?}, {} KiB", schemas.len(), begun.elapsed(), rss() - before);
    let begun = Instant::now();
    let before = rss();
    let all: Vec<Schema> = facts::names().filter_map(Schema::for_definition).collect();
    println!("{} of all definitions: {:?}, {} KiB", all.len(), begun.elapsed(), rss() - before);
    drop(kinds);
}
