//! When a cron job runs: its schedule and its time zone.

use crate::duration;

/// Faults of a schedule in cron's five fields or one of its names, in the words of upstream's parser.
///
/// Source: github.com/robfig/cron `spec.go`, "Cron spec format".
pub(super) fn schedule(schedule: &str) -> Result<(), String> {
    const FIELDS: [(u32, u32, &[&str]); 5] = [
        (0, 59, &[]),
        (0, 23, &[]),
        (1, 31, &[]),
        (
            1,
            12,
            &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
        ),
        (0, 6, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]),
    ];
    if schedule.starts_with('@') {
        let named =
            ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];
        return match schedule.strip_prefix("@every ") {
            Some(every) => match duration::fault(every) {
                Some(fault) => Err(format!("failed to parse duration {schedule}: time: {fault}")),
                None => Ok(()),
            },
            None if named.contains(&schedule) => Ok(()),
            None => Err(format!("unrecognized descriptor: {schedule}")),
        };
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Err(format!(
            "expected exactly 5 fields, found {}: [{}]",
            fields.len(),
            fields.join(" ")
        ));
    }
    for (field, (low, high, names)) in fields.iter().zip(FIELDS) {
        for part in field.split(',').filter(|r| !r.is_empty()) {
            range(part, low, high, names)?;
        }
    }
    Ok(())
}

/// Faults of a schedule that may bring its time zone itself.
pub(super) fn zone_of(schedule: &str) -> Result<(), String> {
    let named = schedule.strip_prefix("TZ=").or_else(|| schedule.strip_prefix("CRON_TZ="));
    let Some((zone, rest)) = named.and_then(|named| named.split_once(' ')) else {
        return self::schedule(schedule);
    };
    if !matches!(zone, "" | "Local") && jiff::tz::TimeZone::get(zone).is_err() {
        return Err(format!("provided bad location {zone}: unknown time zone {zone}"));
    }
    self::schedule(rest.trim())
}

fn range(text: &str, low: u32, high: u32, names: &[&str]) -> Result<(), String> {
    let parts: Vec<&str> = text.split('/').collect();
    let (bounds, step) = match parts.as_slice() {
        [bounds] => (*bounds, None),
        [bounds, step] => (*bounds, Some(*step)),
        _ => return Err(format!("too many slashes: {text}")),
    };
    let number = |digits: &str| -> Result<u32, String> {
        let name = names.iter().position(|n| *n == digits.to_ascii_lowercase());
        match name {
            Some(n) => Ok(u32::try_from(n).unwrap_or_default() + low),
            None => digits.parse().map_err(|_| {
                format!("failed to parse int from {digits}: strconv.Atoi: parsing {digits:?}: invalid syntax")
            }),
        }
    };
    let ends: Vec<&str> = bounds.split('-').collect();
    let (start, mut end) = match ends.as_slice() {
        ["*" | "?"] => (low, high),
        [one] => (number(one)?, number(one)?),
        [first, last] => (number(first)?, number(last)?),
        _ => return Err(format!("too many hyphens: {text}")),
    };
    let step = step.map(number).transpose()?;
    if step.is_some() && ends.len() == 1 {
        end = end.max(high);
    }
    if start < low {
        return Err(format!("beginning of range ({start}) below minimum ({low}): {text}"));
    }
    if end > high {
        return Err(format!("end of range ({end}) above maximum ({high}): {text}"));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {text}"));
    }
    if step == Some(0) {
        return Err(format!("step of range should be a positive number: {text}"));
    }
    Ok(())
}

/// Faults of the name of a time zone.
pub(super) fn zone(zone: &str) -> Vec<String> {
    if zone.is_empty() {
        return vec!["timeZone must be nil or non-empty string".to_owned()];
    }
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '+');
    let good = |part: &str| {
        !matches!(part, "" | "." | "..") && !part.starts_with('-') && part.chars().all(inner)
    };
    if !zone.split('/').all(good) {
        return vec![format!("unknown time zone {zone}")];
    }
    let mut faults = Vec::new();
    if zone.eq_ignore_ascii_case("Local") {
        faults.push(
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"
                .to_owned(),
        );
    }
    if zone != "Local" && jiff::tz::TimeZone::get(zone).is_err() {
        faults.push(format!("unknown time zone {zone}"));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules() {
        for good in ["*/5 * * * *", "0 1 * * *", "@hourly", "1,2-4/2 0 1 JAN mon", "@every 1h"] {
            assert_eq!(schedule(good), Ok(()), "{good}");
        }
        assert_eq!(schedule("61 * * * *"), Err("end of range (61) above maximum (59): 61".into()));
        for (duration, fault) in [
            ("x", "invalid duration \"x\""),
            ("5", "missing unit in duration \"5\""),
            ("5q", "unknown unit \"q\" in duration \"5q\""),
        ] {
            let schedule = schedule(&format!("@every {duration}"));
            let text = format!("failed to parse duration @every {duration}: time: {fault}");
            assert_eq!(schedule, Err(text));
        }
        assert_eq!(zone_of("TZ=UTC 0 0 * * *"), Ok(()));
        let fault = "provided bad location Bad/X: unknown time zone Bad/X";
        assert_eq!(zone_of("CRON_TZ=Bad/X 0 0 * * *"), Err(fault.into()));
        for bad in [
            "* * * *",
            "@often",
            "a * * * *",
            "5-1 * * * *",
            "* * 0 * *",
            "*/0 * * * *",
            "1/2/3 * * * *",
        ] {
            assert!(schedule(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn zones() {
        for good in ["Europe/Berlin", "UTC", "Etc/GMT+1"] {
            assert!(zone(good).is_empty(), "{good}");
        }
        for bad in ["", "Local", "Nowhere/Land", "../UTC", "a b"] {
            assert!(!zone(bad).is_empty(), "{bad}");
        }
    }
}
