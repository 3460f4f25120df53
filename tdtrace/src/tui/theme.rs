//! How things look. Colour only underlines what words and signs say already, so that nothing is lost
//! without it.

use ratatui::style::{Color, Modifier, Style};

/// The styles of the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Theme {
    /// Something is wrong: lost events, an audit that does not agree, a filter that is none.
    pub alarm: Style,
    /// Works today, and is wrong.
    pub warning: Style,
    /// Less important than what stands beside it.
    pub dim: Style,
    /// What is chosen.
    pub chosen: Style,
    /// Heads of tables.
    pub head: Style,
    /// Bars and curves.
    pub figure: Style,
}

impl Theme {
    /// With colours, or without.
    #[must_use]
    pub const fn new(colour: bool) -> Self {
        let plain = Style::new();
        let alarm = plain.add_modifier(Modifier::BOLD);
        Self {
            alarm: if colour { alarm.fg(Color::Red) } else { alarm },
            warning: if colour { plain.fg(Color::Yellow) } else { plain },
            dim: plain.add_modifier(Modifier::DIM),
            chosen: plain.add_modifier(Modifier::REVERSED),
            head: plain.add_modifier(Modifier::BOLD),
            figure: if colour { plain.fg(Color::Cyan) } else { plain },
        }
    }

    /// As `NO_COLOR` asks: any value that is not empty turns colours off (<https://no-color.org>).
    #[must_use]
    pub fn from_env(no_color: Option<&std::ffi::OsStr>) -> Self {
        Self::new(no_color.is_none_or(std::ffi::OsStr::is_empty))
    }
}

impl Default for Theme {
    fn default() -> Self {
        Self::new(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_color_means_no_colour_unless_it_is_empty() {
        let theme = |value: Option<&str>| Theme::from_env(value.map(std::ffi::OsStr::new));
        assert_eq!(theme(Some("1")), Theme::new(false));
        assert_eq!(theme(Some("")), Theme::new(true));
        assert_eq!(theme(None), Theme::new(true));
        let plain = Theme::new(false);
        for style in [plain.alarm, plain.warning, plain.dim, plain.chosen, plain.head, plain.figure]
        {
            assert_eq!((style.fg, style.bg), (None, None));
        }
    }
}
