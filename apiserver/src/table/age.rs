//! Durations and ages as people read them: `5s`, `3m20s`, `7h`, `2d4h`, `1y30d`.

use jiff::Timestamp;
use serde_json::Value;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const YEAR: i64 = 365 * DAY;
/// Seconds from 1970 back to the beginning of the year 1, which is what Go takes for no time.
const ZERO_SECONDS: i64 = -62_135_596_800;

/// `seconds` in one or two units, coarser the longer it is.
///
/// Source: the steps are those that `kubectl get` shows: seconds to two minutes, minutes with
/// seconds to ten, minutes to three hours, hours with minutes to eight, hours to two days, days
/// with hours to eight, days to two years, years with days to eight, then years.
pub(super) fn human(seconds: i64) -> String {
    let two = |large: i64, large_unit: char, small: i64, small_unit: char| {
        if small == 0 {
            format!("{large}{large_unit}")
        } else {
            format!("{large}{large_unit}{small}{small_unit}")
        }
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        s if s < 2 * MINUTE => format!("{s}s"),
        s if s < 10 * MINUTE => two(s / MINUTE, 'm', s % MINUTE, 's'),
        s if s < 3 * HOUR => format!("{}m", s / MINUTE),
        s if s < 8 * HOUR => two(s / HOUR, 'h', s % HOUR / MINUTE, 'm'),
        s if s < 2 * DAY => format!("{}h", s / HOUR),
        s if s < 8 * DAY => two(s / DAY, 'd', s % DAY / HOUR, 'h'),
        s if s < 2 * YEAR => format!("{}d", s / DAY),
        s if s < 8 * YEAR => two(s / YEAR, 'y', s % YEAR / DAY, 'd'),
        s => format!("{}y", s / YEAR),
    }
}

/// Time from `then` to `now`; `<unknown>` if there is no time, `<invalid>` if it is none.
pub(super) fn since(then: Option<&Value>, now: Timestamp) -> String {
    match then.and_then(Value::as_str) {
        None | Some("") => "<unknown>".to_owned(),
        Some(text) => match text.parse::<Timestamp>() {
            // Go's zero time.
            Ok(then) if then.as_second() == ZERO_SECONDS => "<unknown>".to_owned(),
            Ok(then) => human(now.duration_since(then).as_secs()),
            Err(_) => "<invalid>".to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn longer_is_coarser() {
        let table = [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (307, "5m7s"),
            (600, "10m"),
            (3 * HOUR - 1, "179m"),
            (3 * HOUR, "3h"),
            (3 * HOUR + 59, "3h"),
            (7 * HOUR + 61, "7h1m"),
            (8 * HOUR + 61, "8h"),
            (47 * HOUR, "47h"),
            (49 * HOUR, "2d1h"),
            (8 * DAY + HOUR, "8d"),
            (2 * YEAR + DAY, "2y1d"),
            (9 * YEAR + DAY, "9y"),
        ];
        for (seconds, expected) in table {
            assert_eq!(human(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn ages_need_a_time() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        assert_eq!(since(Some(&json!("2026-01-01T00:00:00Z")), now), "60s");
        assert_eq!(since(Some(&json!("2026-01-01T00:00:00.500000Z")), now), "59s");
        assert_eq!(since(Some(&Value::Null), now), "<unknown>");
        assert_eq!(since(None, now), "<unknown>");
        assert_eq!(since(Some(&json!("yesterday")), now), "<invalid>");
    }
}
