//! Words and numbers as the page shows them.

/// Text that may stand anywhere in HTML, attributes included.
pub(super) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '\n' | '\t' => safe.push(character),
            // Control characters, and those that turn the direction of the text after them.
            _ if character.is_control() || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {
                safe.push('\u{fffd}');
            }
            _ => safe.push(character),
        }
    }
    safe
}

/// At most this many characters, with an ellipsis where something was left out.
pub(super) fn shortened(text: &str, characters_max: usize) -> String {
    if text.chars().count() <= characters_max {
        return text.to_owned();
    }
    text.chars().take(characters_max.saturating_sub(1)).chain(['…']).collect()
}

/// 1234567 as 1,234,567.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A length of time with about three digits: `840 µs`, `1.24 ms`, `3.2 s`, `2 min 5 s`.
pub(super) fn duration(us: u64) -> String {
    let scaled = |unit: u64, name: &str| {
        let whole = us / unit;
        match whole {
            0..10 => format!("{:.2} {name}", us as f64 / unit as f64),
            10..100 => format!("{:.1} {name}", us as f64 / unit as f64),
            _ => format!("{whole} {name}"),
        }
    };
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => scaled(1_000, "ms"),
        1_000_000..120_000_000 => scaled(1_000_000, "s"),
        _ => format!("{} min {} s", us / 60_000_000, us / 1_000_000 % 60),
    }
}

/// Seconds since the beginning as on a clock: `0:07`, `12:30`, `1:02:03`.
pub(super) fn clock(seconds: u64) -> String {
    match seconds / 3600 {
        0 => format!("{}:{:02}", seconds / 60, seconds % 60),
        hours => format!("{hours}:{:02}:{:02}", seconds / 60 % 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against text from a run that becomes part of the page.
    #[test]
    fn nothing_escapes() {
        assert_eq!(
            escaped("<b a='1' c=\"2\">&\u{1}\u{202e}"),
            "&lt;b a=&#39;1&#39; c=&quot;2&quot;&gt;&amp;\u{fffd}\u{fffd}"
        );
    }

    /// Guards against figures that are off by a unit.
    #[test]
    fn figures() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([7, 1_240, 12_340, 999_999].map(duration), ["7 µs", "1.24 ms", "12.3 ms", "999 ms"]);
        assert_eq!([1_000_000, 125_000_000].map(duration), ["1.00 s", "2 min 5 s"]);
        assert_eq!([7, 750, 3_723].map(clock), ["0:07", "12:30", "1:02:03"]);
        assert_eq!(shortened("abcdef", 4), "abc…");
        assert_eq!(shortened("abcd", 4), "abcd");
    }
}
