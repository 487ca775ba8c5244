//! `/debug/api_priority_and_fairness/…`: what waits and runs, as tables for people.
//!
//! Source: kubernetes.io, "API Priority and Fairness", "Debug endpoints".

use std::time::Duration;

use super::Fairness;
use super::level::Note;
use super::queues::Seen;
use crate::handlers::options::Query;
use crate::request::RequestInfo;

/// Paths of the tables.
pub const PATHS: [&str; 3] = [
    "/debug/api_priority_and_fairness/dump_priority_levels",
    "/debug/api_priority_and_fairness/dump_queues",
    "/debug/api_priority_and_fairness/dump_requests",
];

/// The table at a path, or `None` if there is none.
pub fn dump(fairness: &Fairness, path: &str, query: Option<&str>) -> Option<String> {
    match path.strip_prefix("/debug/api_priority_and_fairness/")? {
        "dump_priority_levels" => Some(levels(fairness)),
        "dump_queues" => Some(queues(fairness)),
        "dump_requests" => Some(requests(fairness, asks_for_details(query))),
        _ => None,
    }
}

fn asks_for_details(query: Option<&str>) -> bool {
    Query::parse(query).get("includeRequestDetails").is_some_and(|value| !value.is_empty())
}

fn levels(fairness: &Fairness) -> String {
    let mut rows = vec![row(&[
        "PriorityLevelName",
        "ActiveQueues",
        "IsIdle",
        "IsQuiescing",
        "WaitingRequests",
        "ExecutingRequests",
        "DispatchedRequests",
        "RejectedRequests",
        "TimedoutRequests",
        "CancelledRequests",
    ])];
    for (name, level) in &fairness.table.load().levels {
        rows.push(level.look(|set| {
            let active = set.queues().filter(|queue| queue.waiting > 0).count();
            let counts = set.counts();
            let idle = set.n_waiting() + set.n_running() == 0;
            vec![
                name.clone(),
                active.to_string(),
                idle.to_string(),
                "false".to_owned(),
                set.n_waiting().to_string(),
                set.n_running().to_string(),
                counts.dispatched.to_string(),
                counts.rejected.to_string(),
                counts.timed_out.to_string(),
                counts.cancelled.to_string(),
            ]
        }));
    }
    table(&rows)
}

fn queues(fairness: &Fairness) -> String {
    let mut rows = vec![row(&[
        "PriorityLevelName",
        "Index",
        "PendingRequests",
        "ExecutingRequests",
        "SeatsInUse",
        "NextDispatchR",
        "InitialSeatsSum",
        "MaxSeatsSum",
        "TotalWorkSum",
    ])];
    for (name, level) in &fairness.table.load().levels {
        level.look(|set| {
            for (index, queue) in set.queues().enumerate() {
                rows.push(vec![
                    name.clone(),
                    index.to_string(),
                    queue.waiting.to_string(),
                    queue.running.to_string(),
                    queue.seats.to_string(),
                    format!("{:.8}ss", queue.next),
                    queue.wanted.to_string(),
                    // A request has as many seats at its end as at its beginning here.
                    queue.wanted.to_string(),
                    format!("{:.8}ss", queue.work),
                ]);
            }
        });
    }
    table(&rows)
}

fn requests(fairness: &Fairness, details: bool) -> String {
    let mut head = row(&[
        "PriorityLevelName",
        "FlowSchemaName",
        "QueueIndex",
        "RequestIndexInQueue",
        "FlowDistingsher", // As upstream spells it.
        "ArriveTime",
        "InitialSeats",
        "FinalSeats",
        "AdditionalLatency",
        "StartTime",
    ]);
    if details {
        let more = ["UserName", "Verb", "APIPath", "Namespace", "Name", "APIVersion", "Resource"];
        head.extend(row(&more));
        head.push("SubResource".to_owned());
    }
    let mut rows = vec![head];
    let began = jiff::Timestamp::now() - fairness.epoch.elapsed();
    for (name, level) in &fairness.table.load().levels {
        level.look(|set| {
            for seen in set.requests() {
                let mut cells = vec![name.clone()];
                cells.extend(cells_of(&seen, began));
                if details {
                    cells.extend(details_of(&seen.asked.note));
                }
                rows.push(cells);
            }
        });
    }
    table(&rows)
}

/// `began` is when the server's age was nothing.
fn cells_of(seen: &Seen<'_, Box<Note>>, began: jiff::Timestamp) -> [String; 9] {
    let Note { metrics, distinguisher, estimate, .. } = &*seen.asked.note;
    let index = |n: Option<usize>| n.map_or("-1".to_owned(), |n| n.to_string());
    let time = |age: Duration| (began + age).to_string();
    // Who waits has not begun; that is the time which clients know as none.
    let started = seen.started.map_or("0001-01-01T00:00:00Z".to_owned(), time);
    let seats_after = if estimate.after.is_zero() { 0 } else { estimate.seats };
    [
        metrics.schema.clone(),
        index(seen.queue),
        index(seen.place),
        distinguisher.clone(),
        time(seen.came),
        estimate.seats.to_string(),
        seats_after.to_string(),
        milliseconds(estimate.after),
        started,
    ]
}

fn details_of(note: &Note) -> [String; 8] {
    let RequestInfo { path, verb, group, version, resource, .. } = &note.info;
    let RequestInfo { subresource, namespace, name, .. } = &note.info;
    let group_version =
        if group.is_empty() { version.clone() } else { format!("{group}/{version}") };
    let [user, verb, path, namespace, name, resource, subresource] =
        [&note.user, verb, path, namespace, name, resource, subresource].map(Clone::clone);
    [user, verb, path, namespace, name, group_version, resource, subresource]
}

/// A duration of less than a second, as Go writes it.
fn milliseconds(duration: Duration) -> String {
    if duration.is_zero() {
        return "0s".to_owned();
    }
    format!("{}ms", duration.as_secs_f64() * 1000.0)
}

fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|&cell| cell.to_owned()).collect()
}

/// Cells in columns, with the commas that scripts split at.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width =
        |column: usize| rows.iter().map(|row| row[column].len() + 2).max().unwrap_or(0).max(8);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        for (n, cell) in row.iter().enumerate() {
            if n + 1 == columns {
                out.push_str(cell);
            } else {
                out.push_str(&format!("{:<width$}", format!("{cell},"), width = widths[n]));
            }
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fairness::Options;
    use crate::fairness::work::Estimate;
    use prometheus_client::registry::Registry;

    #[test]
    fn each_table_has_its_head_and_its_levels() {
        let fairness = Fairness::new(Options::default(), &mut Registry::default());
        let text = dump(&fairness, PATHS[0], None).unwrap();
        assert_eq!(text.lines().count(), 1 + 8);
        let low = text.lines().find(|line| line.starts_with("workload-low,")).unwrap();
        let cells: Vec<&str> = low.split(',').map(str::trim).collect();
        assert_eq!(cells[1..], ["0", "true", "false", "0", "0", "0", "0", "0", "0"]);
        let text = dump(&fairness, PATHS[1], None).unwrap();
        assert_eq!(text.lines().count(), 1 + 128 * 3 + 64 * 2 + 16);
        assert!(dump(&fairness, "/debug/api_priority_and_fairness/x", None).is_none());
    }

    #[test]
    fn requests_that_run_are_shown_with_who_sent_them() {
        let fairness = Fairness::new(Options::default(), &mut Registry::default());
        let path = "/apis/apps/v1/namespaces/a/deployments/d/status";
        let info = RequestInfo::parse(&http::Method::GET, path, None);
        let user = crate::request::User::new("jane", &[]);
        let route = fairness.route(&user, &info).unwrap();
        let estimate =
            Estimate { seats: 3, after: Duration::from_micros(7500), watchers: Some(25) };
        let admission = fairness.admit(&route, &user, &info, estimate);
        let text = dump(&fairness, PATHS[2], Some("includeRequestDetails=1")).unwrap();
        let cells = |line: &str| -> Vec<String> {
            line.split(',').map(|cell| cell.trim().to_owned()).collect()
        };
        let (head, row) = text.trim_end().split_once('\n').unwrap();
        let (head, row) = (cells(head), cells(row));
        assert_eq!((head.len(), row.len()), (18, 18));
        let queue: usize = row[2].parse().unwrap();
        assert!(queue < 128);
        assert_eq!(row[..2], ["global-default", "global-default"]);
        assert_eq!((row[3].as_str(), row[4].as_str()), ("-1", "jane"));
        assert_eq!(row[6..9], ["3", "3", "7.5ms"]);
        let [came, began] = [&row[5], &row[9]].map(|t| t.parse::<jiff::Timestamp>().unwrap());
        assert_eq!(came, began);
        let rest = ["jane", "get", path, "a", "d", "apps/v1", "deployments", "status"];
        assert_eq!(row[10..], rest);
        drop(admission);
        let text = dump(&fairness, PATHS[2], None).unwrap();
        assert!(text.trim_end().ends_with("AdditionalLatency, StartTime"), "{text}");
    }
}
