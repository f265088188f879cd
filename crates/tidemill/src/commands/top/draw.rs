//! A frame as text for people. Pure.

use super::frame::{Frame, Hot, ShardRates};
use crate::output;

/// Shards on a screen, the busiest ones where there are more.
const SHARDS_MAX: usize = 8;
/// The longest key shown, in characters.
const KEY_CHARS_MAX: usize = 48;
/// Stands for a number that there is none of.
const NONE: &str = "-";

/// The lines of a frame, with at most so many hot keys.
pub(super) fn draw(frame: &Frame, hot_max: usize) -> String {
    let requests = &frame.requests;
    let mut text = format!(
        "tidemill {}, up {}; rates over {}\n\
         requests {}/s ({} failed/s), {} running, {} waiting; {} HTTP answers/s\n",
        frame.version,
        span(frame.uptime_ms),
        span(frame.interval_ms),
        rate(requests.per_second),
        rate(requests.failed_per_second),
        requests.running,
        requests.waiting,
        rate(frame.answers_per_second),
    );
    if frame.log.read_only {
        text.push_str("THE STORE IS READ-ONLY: a write to the disk failed; see its log\n");
    }
    let (shards, left_out) = shards(frame);
    let hot = hot(&frame.hot, hot_max);
    for part in [shards, tiers(frame), hot].into_iter().flatten() {
        text.push('\n');
        text.push_str(&part);
        text.push('\n');
    }
    if left_out > 0 {
        text.push_str(&format!("\n{left_out} shards less busy are left out\n"));
    }
    text
}

fn shards(frame: &Frame) -> (Option<String>, usize) {
    let mut shards: Vec<&ShardRates> = frame.shards.iter().collect();
    let busy = |shard: &ShardRates| shard.reads_per_second + shard.writes_per_second;
    if shards.len() > SHARDS_MAX {
        shards.sort_by(|a, b| busy(b).total_cmp(&busy(a)));
    }
    let left_out = shards.len().saturating_sub(SHARDS_MAX);
    shards.truncate(SHARDS_MAX);
    shards.sort_by_key(|shard| shard.shard);
    let header = [
        "SHARD", "QUEUE", "READS/S", "COLD/S", "WRITES/S", "P50", "P99", "KEYS", "DIRTY", "MEMORY",
    ];
    let rows: Vec<Vec<String>> = shards
        .iter()
        .map(|shard| {
            vec![
                shard.shard.to_string(),
                shard.queue_depth.to_string(),
                rate(shard.reads_per_second),
                rate(shard.cold_reads_per_second),
                rate(shard.writes_per_second),
                latency(shard.write_p50_us),
                latency(shard.write_p99_us),
                shard.keys.to_string(),
                shard.dirty_keys.to_string(),
                bytes(shard.memory_bytes),
            ]
        })
        .collect();
    let table = (!rows.is_empty()).then(|| output::table_text(&header, rows));
    (table, left_out)
}

fn tiers(frame: &Frame) -> Option<String> {
    let (memory, disk, log) = (&frame.memory, &frame.disk, &frame.log);
    let hits = match memory.hit_ratio {
        Some(ratio) => format!("{:.1} %", ratio * 100.0),
        None => NONE.to_owned(),
    };
    let shared = match log.commits_per_group {
        Some(commits) => format!("{commits:.1}"),
        None => NONE.to_owned(),
    };
    let age = log.checkpoint_age_ms.map_or(NONE.to_owned(), span);
    let rows = [
        (
            "memory",
            format!("{} of {}", bytes(memory.bytes), bytes(memory.budget_bytes)),
            format!(
                "{} keys, hits {hits}, {} evictions/s",
                memory.keys,
                rate(memory.evictions_per_second)
            ),
        ),
        (
            "disk",
            bytes(disk.bytes),
            format!(
                "{} reads/s, p50 {}, p99 {}; {} tables, {} flushes (+{} waiting), \
                 {} compactions (+{} running)",
                rate(disk.reads_per_second),
                latency(disk.read_p50_us),
                latency(disk.read_p99_us),
                disk.tables,
                disk.flushes,
                disk.flushes_waiting,
                disk.compactions,
                disk.compactions_running
            ),
        ),
        (
            "log",
            bytes(log.bytes),
            format!(
                "{} commits/s, {shared} a group, {} syncs/s; checkpoint {age} ago, {} made",
                rate(log.commits_per_second),
                rate(log.syncs_per_second),
                log.checkpoints
            ),
        ),
    ];
    let rows = rows.map(|(tier, size, rest)| vec![tier.to_owned(), size, rest]);
    Some(output::table_text(&["TIER", "SIZE", ""], rows.to_vec()))
}

fn hot(keys: &[Hot], max: usize) -> Option<String> {
    let rows: Vec<Vec<String>> = keys
        .iter()
        .take(max)
        .map(|hot| {
            vec![
                rate(hot.per_second),
                rate(hot.error_per_second),
                hot.shard.to_string(),
                printable(&hot.app),
                printable(&hot.key),
            ]
        })
        .collect();
    let header = ["OPERATIONS/S", "ERROR", "SHARD", "APP", "HOT KEY"];
    (!rows.is_empty()).then(|| output::table_text(&header, rows))
}

/// A name without what would move the cursor or colour the screen, and not too long.
fn printable(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(KEY_CHARS_MAX)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if text.chars().nth(KEY_CHARS_MAX).is_some() {
        shown.push('\u{2026}');
    }
    shown
}

fn latency(us: Option<u64>) -> String {
    us.map_or(NONE.to_owned(), output::duration)
}

/// A rate in at most six characters.
fn rate(per_second: f64) -> String {
    match per_second {
        0.0 => "0".to_owned(),
        small if small < 100.0 => format!("{small:.1}"),
        middle if middle < 10_000.0 => format!("{middle:.0}"),
        large if large < 1e6 => format!("{:.1}k", large / 1e3),
        huge => format!("{:.2}M", huge / 1e6),
    }
}

/// Bytes with a unit that suits their size.
fn bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut size = bytes as f64;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < units.len() {
        size /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0);
    format!("{size:.digits$} {}", units[unit])
}

/// Milliseconds as the two greatest units that are not zero.
fn span(ms: u64) -> String {
    let s = ms / 1000;
    let (m, h, d) = (s / 60, s / 3600, s / 86_400);
    match s {
        0..60 => format!("{:.1}s", ms as f64 / 1e3),
        60..3_600 => format!("{m}m {}s", s % 60),
        3_600..86_400 => format!("{h}h {}m", m % 60),
        _ => format!("{d}d {}h", h % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::{self, Sample, Shard};
    use super::*;

    #[test]
    fn numbers_read_well() {
        let rates = [0.0, 0.1, 99.9, 1_234.0, 45_678.0, 2_345_678.0].map(rate);
        assert_eq!(rates, ["0", "0.1", "99.9", "1234", "45.7k", "2.35M"]);
        let sizes = [0, 1_023, 1_536, 5 << 30].map(bytes);
        assert_eq!(sizes, ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]);
        let spans = [1_500, 61_000, 3_660_000, 90_000_000].map(span);
        assert_eq!(spans, ["1.5s", "1m 1s", "1h 1m", "1d 1h"]);
    }

    #[test]
    fn names_cannot_write_on_the_screen() {
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
        let long = printable(&"x".repeat(100));
        assert_eq!(long.chars().count(), KEY_CHARS_MAX + 1);
    }

    #[test]
    fn the_busiest_shards_are_shown_in_order() {
        let mut sample = Sample::default();
        sample.node.uptime_ms = 1_000;
        sample.store.uptime_ms = 1_000;
        sample.store.shards = (0..10)
            .map(|shard| Shard {
                shard,
                writes: if shard < 2 { 0 } else { 100 },
                ..Shard::default()
            })
            .collect();
        let text = draw(&frame::frame(None, sample), 5);
        let first: Vec<&str> = text
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .filter(|word| word.parse::<u64>().is_ok())
            .collect();
        assert_eq!(first, ["2", "3", "4", "5", "6", "7", "8", "9", "2"]);
        assert!(
            text.ends_with("2 shards less busy are left out\n"),
            "{text}"
        );
        assert!(!text.contains("HOT KEY"), "{text}");
    }

    #[test]
    fn a_store_that_is_read_only_says_so() {
        let mut sample = Sample::default();
        assert!(!draw(&frame::frame(None, sample.clone()), 5).contains("READ-ONLY"));
        sample.store.log.read_only = true;
        assert!(draw(&frame::frame(None, sample), 5).contains("READ-ONLY"));
    }
}
