//! `/debug/api_priority_and_fairness/…`: what waits and runs, as tables for people.
//!
//! Source: kubernetes.io, "API Priority and Fairness", "Debug endpoints".

use super::Fairness;

/// Paths of the tables.
pub const PATHS: [&str; 3] = [
    "/debug/api_priority_and_fairness/dump_priority_levels",
    "/debug/api_priority_and_fairness/dump_queues",
    "/debug/api_priority_and_fairness/dump_requests",
];

/// The table at a path, or `None` if there is none.
pub fn dump(fairness: &Fairness, path: &str) -> Option<String> {
    match path.strip_prefix("/debug/api_priority_and_fairness/")? {
        "dump_priority_levels" => Some(levels(fairness)),
        "dump_queues" => Some(queues(fairness)),
        "dump_requests" => Some(requests(fairness)),
        _ => None,
    }
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

fn requests(fairness: &Fairness) -> String {
    let mut rows =
        vec![row(&["PriorityLevelName", "QueueIndex", "RequestIndexInQueue", "InitialSeats"])];
    let index = |n: Option<usize>| n.map_or("-1".to_owned(), |n| n.to_string());
    for (name, level) in &fairness.table.load().levels {
        level.look(|set| {
            for (queue, place, seats) in set.requests() {
                rows.push(vec![name.clone(), index(queue), index(place), seats.to_string()]);
            }
        });
    }
    table(&rows)
}

fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|&cell| cell.to_owned()).collect()
}

/// Cells in columns, with the commas that scripts split at.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].len() + 2).max().unwrap_or(0);
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
    use prometheus_client::registry::Registry;

    #[test]
    fn each_table_has_its_head_and_its_levels() {
        let fairness = Fairness::new(Options::default(), &mut Registry::default());
        let text = dump(&fairness, PATHS[0]).unwrap();
        assert_eq!(text.lines().count(), 1 + 8);
        let low = text.lines().find(|line| line.starts_with("workload-low,")).unwrap();
        let cells: Vec<&str> = low.split(',').map(str::trim).collect();
        assert_eq!(cells[1..], ["0", "true", "false", "0", "0", "0", "0", "0", "0"]);
        let text = dump(&fairness, PATHS[1]).unwrap();
        assert_eq!(text.lines().count(), 1 + 128 * 3 + 64 * 2 + 16);
        assert!(dump(&fairness, PATHS[2]).unwrap().starts_with("PriorityLevelName,"));
        assert!(dump(&fairness, "/debug/api_priority_and_fairness/x").is_none());
    }
}
