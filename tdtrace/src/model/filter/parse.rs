//! From text to an expression.

use super::{FilterError, Node, Number, Relation, Term, Unit, means};

/// How deep an expression may nest; a command line is no program.
const DEPTH: usize = 32;
/// Characters of an expression.
const LENGTH: usize = 4096;

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Open,
    Close,
    Not,
    And,
    Or,
    Relation(Relation),
    Word(String),
    /// In quotes: never a keyword.
    Quoted(String),
}

type Result<T> = std::result::Result<T, FilterError>;

fn error<T>(at: usize, message: impl Into<String>) -> Result<T> {
    Err(FilterError { at: at + 1, message: message.into() })
}

pub(super) fn parse(text: &str, columns: &[(&str, &str)]) -> Result<Node> {
    let chars: Vec<char> = text.chars().collect();
    if chars.len() > LENGTH {
        return error(LENGTH, format!("the filter is too long; use at most {LENGTH} characters"));
    }
    let tokens = tokens(&chars)?;
    if tokens.is_empty() {
        return error(0, "the filter is empty; write for example name=web*");
    }
    let mut parser = Parser { tokens, next: 0, end: chars.len(), columns };
    let node = parser.any(0)?;
    match parser.peek() {
        None => Ok(node),
        Some(_) => error(parser.at(), "this `)` closes nothing; remove it or add a `(`"),
    }
}

fn tokens(chars: &[char]) -> Result<Vec<(usize, Token)>> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(first) = chars.get(at) {
        let start = at;
        let second = chars.get(at + 1) == Some(&'=');
        at += 1;
        let token = match first {
            ' ' | '\t' => continue,
            '(' => Token::Open,
            ')' => Token::Close,
            '|' => Token::Or,
            '&' => Token::And,
            '!' | '<' | '>' if second => {
                at += 1;
                Token::Relation(match first {
                    '!' => Relation::NotEqual,
                    '<' => Relation::LessOrEqual,
                    _ => Relation::GreaterOrEqual,
                })
            }
            '!' => Token::Not,
            '<' => Token::Relation(Relation::Less),
            '>' => Token::Relation(Relation::Greater),
            '=' => Token::Relation(Relation::Equal),
            '"' => {
                let Some(length) = chars[at..].iter().position(|c| *c == '"') else {
                    return error(start, "this quote is not closed; add a `\"` at the end");
                };
                at += length + 1;
                Token::Quoted(chars[start + 1..at - 1].iter().collect())
            }
            _ => {
                at = start + word_length(&chars[start..]);
                word(chars[start..at].iter().collect())
            }
        };
        tokens.push((start, token));
    }
    Ok(tokens)
}

fn word_length(chars: &[char]) -> usize {
    let ends =
        |c: &char| matches!(c, ' ' | '\t' | '(' | ')' | '|' | '&' | '!' | '<' | '>' | '=' | '"');
    chars.iter().position(ends).unwrap_or(chars.len())
}

fn word(word: String) -> Token {
    match word.as_str() {
        "or" => Token::Or,
        "and" => Token::And,
        "not" => Token::Not,
        _ => Token::Word(word),
    }
}

struct Parser<'a> {
    tokens: Vec<(usize, Token)>,
    next: usize,
    end: usize,
    /// Keys and help of the columns that there are.
    columns: &'a [(&'a str, &'a str)],
}

impl Parser<'_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next).map(|(_, token)| token)
    }

    fn at(&self) -> usize {
        self.tokens.get(self.next).map_or(self.end, |(at, _)| *at)
    }

    fn any(&mut self, depth: usize) -> Result<Node> {
        let mut nodes = vec![self.all(depth)?];
        while self.peek() == Some(&Token::Or) {
            self.next += 1;
            nodes.push(self.all(depth)?);
        }
        Ok(one_or(nodes, Node::Any))
    }

    fn all(&mut self, depth: usize) -> Result<Node> {
        let mut nodes = vec![self.not(depth)?];
        loop {
            match self.peek() {
                None | Some(Token::Or | Token::Close) => return Ok(one_or(nodes, Node::All)),
                Some(Token::And) => self.next += 1,
                Some(_) => {}
            }
            nodes.push(self.not(depth)?);
        }
    }

    fn not(&mut self, depth: usize) -> Result<Node> {
        if depth > DEPTH {
            return error(self.at(), format!("nested too deeply; use at most {DEPTH} levels"));
        }
        let start = self.at();
        let Some((_, token)) = self.tokens.get(self.next).cloned() else {
            return error(start, "a term is missing at the end; write for example name=web*");
        };
        self.next += 1;
        match token {
            Token::Not => Ok(Node::Not(Box::new(self.not(depth + 1)?))),
            Token::Open => {
                let node = self.any(depth + 1)?;
                if self.peek() != Some(&Token::Close) {
                    return error(start, "this `(` is not closed; add a `)`");
                }
                self.next += 1;
                Ok(node)
            }
            Token::Word(word) => match self.peek() {
                Some(Token::Relation(relation)) => {
                    let relation = *relation;
                    self.next += 1;
                    self.term(start, word, relation)
                }
                _ => Ok(Node::Word(word.to_lowercase())),
            },
            Token::Quoted(word) => Ok(Node::Word(word.to_lowercase())),
            Token::Relation(_) => error(start, "a column is missing before this; write KEY=VALUE"),
            Token::And | Token::Or | Token::Close => {
                error(start, "a term is missing before this; write for example name=web*")
            }
        }
    }

    fn term(&mut self, start: usize, key: String, relation: Relation) -> Result<Node> {
        known(start, &key, self.columns)?;
        let at = self.at();
        let (text, quoted) = match self.tokens.get(self.next) {
            Some((_, Token::Word(text))) => (text.clone(), false),
            Some((_, Token::Quoted(text))) => (text.clone(), true),
            Some((_, Token::Not | Token::And | Token::Or)) => {
                return error(at, "a value is missing here; put keywords in quotes");
            }
            _ => return error(at, format!("`{key}` has no value; write {key}=VALUE")),
        };
        self.next += 1;
        let number = if quoted { None } else { number(&text) };
        let compares = matches!(relation, Relation::Equal | Relation::NotEqual);
        if !compares && number.is_none() {
            return error(
                at,
                format!(
                    "`{text}` is no number to compare with; write for example {key}>10k or {key}>5ms"
                ),
            );
        }
        Ok(Node::Term(Term { key, relation, text: text.to_lowercase(), number }))
    }
}

fn one_or(mut nodes: Vec<Node>, many: impl Fn(Vec<Node>) -> Node) -> Node {
    match nodes.pop() {
        Some(node) if nodes.is_empty() => node,
        last => {
            nodes.extend(last);
            many(nodes)
        }
    }
}

/// An error for a column that no table has.
fn known(at: usize, key: &str, keys: &[(&str, &str)]) -> Result<()> {
    if keys.iter().any(|(known, _)| means(key, known)) {
        return Ok(());
    }
    let start: String = key.chars().take(2).collect();
    let near: Vec<&str> = keys
        .iter()
        .map(|(known, _)| *known)
        .filter(|known| !start.is_empty() && known.starts_with(&start))
        .collect();
    let next = if near.is_empty() {
        "`tdtrace top --help` lists them".to_owned()
    } else {
        format!("did you mean {}?", near.join(", "))
    };
    error(at, format!("no column is called `{key}`; {next}"))
}

/// A number with its unit; `None` if it is none.
fn number(text: &str) -> Option<Number> {
    if let Some(digits) = text.strip_prefix("0x") {
        let whole = u64::from_str_radix(digits, 16).ok()?;
        return Some(Number { whole: Some(whole), value: as_float(whole), unit: Unit::None });
    }
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || matches!(c, '%' | 'µ'));
    let (factor, unit) = match &text[digits.len()..] {
        "" => (1, Unit::None),
        "k" => (1_000, Unit::None),
        "M" => (1_000_000, Unit::None),
        "G" => (1_000_000_000, Unit::None),
        "%" => (1, Unit::Percent),
        "ns" => (1, Unit::Time),
        "us" | "µs" => (1_000, Unit::Time),
        "ms" => (1_000_000, Unit::Time),
        "s" => (1_000_000_000, Unit::Time),
        _ => return None,
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if let Some(whole) = digits.parse::<u64>().ok().and_then(|whole| whole.checked_mul(factor)) {
        return Some(Number { whole: Some(whole), value: as_float(whole), unit });
    }
    let value: f64 = digits.parse().ok()?;
    Some(Number { whole: None, value: value * as_float(factor), unit })
}

#[expect(clippy::cast_precision_loss, reason = "exact numbers are compared as whole ones")]
fn as_float(whole: u64) -> f64 {
    whole as f64
}
