//! Redis's glob patterns over bytes: `*`, `?`, `[a-c]`, `[^a]`, and `\` before any of them.

/// Whether the whole of `text` matches. Takes at most pattern times text steps: of several stars
/// only the last one is ever tried again.
pub(crate) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut rest, mut left) = (pattern, text);
    // Where to go on when what follows the last star did not fit.
    let mut again: Option<(&[u8], &[u8])> = None;
    loop {
        if let [b'*', after @ ..] = rest {
            rest = after;
            again = Some((after, left));
            continue;
        }
        let stepped = match left.split_first() {
            None if rest.is_empty() => return true,
            None => None,
            Some((&byte, tail)) => one(rest, byte).map(|after| (after, tail)),
        };
        if let Some(next) = stepped {
            (rest, left) = next;
            continue;
        }
        // The last star takes one byte more.
        match again {
            Some((after, [_, tail @ ..])) => {
                again = Some((after, tail));
                (rest, left) = (after, tail);
            }
            _ => return false,
        }
    }
}

/// The pattern after its first element, if that fits `byte`.
fn one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    match pattern {
        [] => None,
        [b'?', after @ ..] => Some(after),
        [b'[', class @ ..] => {
            let (fits, after) = in_class(class, byte);
            fits.then_some(after)
        }
        [b'\\', literal, after @ ..] | [literal, after @ ..] => (*literal == byte).then_some(after),
    }
}

/// Whether a class holds `byte`, and the pattern after it. One that is not closed ends with the
/// pattern.
fn in_class(class: &[u8], byte: u8) -> (bool, &[u8]) {
    let (negated, mut class) = match class {
        [b'^', rest @ ..] => (true, rest),
        _ => (false, class),
    };
    let mut found = false;
    loop {
        class = match class {
            [] => return (found != negated, class),
            [b']', after @ ..] => return (found != negated, after),
            [b'\\', literal, after @ ..] => {
                found |= *literal == byte;
                after
            }
            [from, b'-', to, after @ ..] => {
                found |= (*from.min(to)..=*from.max(to)).contains(&byte);
                after
            }
            [literal, after @ ..] => {
                found |= *literal == byte;
                after
            }
        };
    }
}

/// The bytes that every match begins with.
pub(crate) fn literal_prefix(pattern: &[u8]) -> Vec<u8> {
    let mut prefix = Vec::new();
    let mut rest = pattern;
    loop {
        rest = match rest {
            [] | [b'*' | b'?' | b'[', ..] => return prefix,
            [b'\\', literal, after @ ..] | [literal, after @ ..] => {
                prefix.push(*literal);
                after
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_match_as_in_redis() {
        for (pattern, text) in [
            ("", ""),
            ("*", ""),
            ("*", "anything"),
            ("h?llo", "hello"),
            ("h*llo", "heeeello"),
            ("h[ae]llo", "hallo"),
            ("h[^e]llo", "hallo"),
            ("h[a-b]llo", "hbllo"),
            ("h[b-a]llo", "hallo"),
            ("a*b*c", "aXbYbZc"),
            ("a\\*b", "a*b"),
            ("[\\]]", "]"),
            ("user:*:name", "user:1:2:name"),
        ] {
            assert!(
                matches(pattern.as_bytes(), text.as_bytes()),
                "{pattern} {text}"
            );
        }
        for (pattern, text) in [
            ("", "a"),
            ("a", ""),
            ("?", ""),
            ("h[^e]llo", "hello"),
            ("h[a-b]llo", "hello"),
            ("a*b*c", "aXbYb"),
            ("a\\*b", "axb"),
            ("[", "a"),
        ] {
            assert!(
                !matches(pattern.as_bytes(), text.as_bytes()),
                "{pattern} {text}"
            );
        }
        // Would take ages if every star were tried again.
        assert!(!matches(&b"*a".repeat(50), &b"a".repeat(5_000)[1..40]));
    }

    proptest! {
        #[test]
        fn every_match_begins_with_the_prefix(pattern in "[ab*?\\[\\]\\\\^-]{0,8}", text in "[ab*-]{0,8}") {
            if matches(pattern.as_bytes(), text.as_bytes()) {
                prop_assert!(text.as_bytes().starts_with(&literal_prefix(pattern.as_bytes())));
            }
        }
    }
}
