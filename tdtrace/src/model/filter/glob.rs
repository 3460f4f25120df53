//! Patterns with `*` and `?`.

/// Whether `text` as a whole is as `pattern` says.
pub(super) fn matches(text: &str, pattern: &str) -> bool {
    let (text, pattern): (Vec<char>, Vec<char>) =
        (text.chars().collect(), pattern.chars().collect());
    let (mut at, mut in_pattern) = (0, 0);
    // Where to go on if what follows the last `*` does not fit: that star takes one more character.
    let mut star: Option<(usize, usize)> = None;
    while at < text.len() {
        match pattern.get(in_pattern) {
            Some('*') => {
                star = Some((in_pattern, at));
                in_pattern += 1;
            }
            Some(expected) if *expected == '?' || *expected == text[at] => {
                at += 1;
                in_pattern += 1;
            }
            _ => {
                let Some((from, taken)) = star else { return false };
                star = Some((from, taken + 1));
                (at, in_pattern) = (taken + 1, from + 1);
            }
        }
    }
    pattern[in_pattern..].iter().all(|rest| *rest == '*')
}

/// Whether a part of `text` is as `pattern` says.
pub(super) fn contains(text: &str, pattern: &str) -> bool {
    if pattern.contains(['*', '?']) {
        matches(text, &format!("*{pattern}*"))
    } else {
        text.contains(pattern)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_any_characters_and_question_marks_for_one() {
        for (text, pattern) in
            [("web-1", "web*"), ("web-1", "*-?"), ("", "*"), ("abcabd", "*abd"), ("ü", "?")]
        {
            assert!(matches(text, pattern), "{text} {pattern}");
        }
        for (text, pattern) in [("web-1", "web"), ("web", "web?"), ("", "?"), ("ab", "*c*")] {
            assert!(!matches(text, pattern), "{text} {pattern}");
        }
        assert!(contains("msr_write", "write") && contains("msr_write", "m?r"));
    }
}
