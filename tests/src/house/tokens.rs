//! Reading tokens: every path that stands in them, use trees and macros included.

use std::iter::Peekable;

use proc_macro2::{Delimiter, Group, Ident, Punct, TokenStream, TokenTree};

/// A path as it stands in the source, use trees spread out: `a::{b, c::d}` is `a::b` and `a::c::d`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mention {
    /// Its segments.
    pub(super) segments: Vec<String>,
    /// The line of its last segment.
    pub(super) line: usize,
    /// What stands right before it.
    pub(super) before: Before,
    /// What stands right behind it.
    pub(super) behind: Behind,
}

/// What stands right before a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    /// A dot: a method or a field.
    Dot,
    /// Anything else.
    Other,
}

/// What stands right behind a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behind {
    /// `!`: a macro.
    Bang,
    /// `()`: a call without arguments.
    EmptyCall,
    /// Anything else.
    Other,
}

impl Mention {
    /// Whether the path begins with these segments (`::` between them).
    pub(super) fn begins(&self, path: &str) -> bool {
        let wanted: Vec<&str> = path.split("::").collect();
        self.segments.len() >= wanted.len()
            && wanted.iter().zip(&self.segments).all(|(wanted, segment)| wanted == segment)
    }

    /// Whether the path ends with these segments.
    pub(super) fn ends(&self, path: &str) -> bool {
        let wanted: Vec<&str> = path.split("::").collect();
        self.segments.len() >= wanted.len()
            && wanted.iter().rev().zip(self.segments.iter().rev()).all(|(a, b)| a == b)
    }

    /// Whether one of its segments is this.
    pub(super) fn has(&self, segment: &str) -> bool {
        self.segments.iter().any(|own| own == segment)
    }

    /// The path as one writes it.
    pub(super) fn text(&self) -> String {
        self.segments.join("::")
    }
}

/// All paths in these tokens, in order. What a macro is given counts as the tokens that it is.
pub(super) fn mentions(tokens: &TokenStream) -> Vec<Mention> {
    let mut found = Vec::new();
    read(tokens.clone(), &[], &mut found);
    found
}

/// The attributes in these tokens that begin with `name`, by line.
pub(super) fn attributes(tokens: &TokenStream, name: &str) -> Vec<usize> {
    let (mut found, mut hash) = (Vec::new(), false);
    for token in tokens.clone() {
        if let TokenTree::Group(group) = &token {
            let first = group.stream().into_iter().next();
            match first {
                Some(TokenTree::Ident(ident)) if hash && ident == name => {
                    found.push(ident.span().start().line);
                }
                _ => found.extend(attributes(&group.stream(), name)),
            }
        }
        hash = matches!(&token, TokenTree::Punct(punct) if punct.as_char() == '#');
    }
    found
}

type Tokens = Peekable<proc_macro2::token_stream::IntoIter>;

fn read(tokens: TokenStream, prefix: &[String], found: &mut Vec<Mention>) {
    let mut tokens = tokens.into_iter().peekable();
    let mut before = Before::Other;
    while let Some(token) = tokens.next() {
        match token {
            // Another name for what was just read.
            TokenTree::Ident(ident) if !prefix.is_empty() && ident == "as" => {
                tokens.next();
            }
            TokenTree::Ident(ident) => {
                path(&ident, prefix, before, &mut tokens, found);
                before = Before::Other;
            }
            TokenTree::Group(group) => {
                read(group.stream(), &[], found);
                before = Before::Other;
            }
            TokenTree::Punct(punct) => {
                before = if punct.as_char() == '.' { Before::Dot } else { Before::Other };
            }
            TokenTree::Literal(_) => before = Before::Other,
        }
    }
}

/// Reads a path that begins with `first`; where it opens into a use tree, all paths of that.
fn path(
    first: &Ident,
    prefix: &[String],
    before: Before,
    tokens: &mut Tokens,
    found: &mut Vec<Mention>,
) {
    let mut segments = prefix.to_vec();
    segments.push(first.to_string());
    let mut line = first.span().start().line;
    while eat_colons(tokens) {
        match tokens.next() {
            Some(TokenTree::Ident(ident)) => {
                line = ident.span().start().line;
                segments.push(ident.to_string());
            }
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                return read(group.stream(), &segments, found);
            }
            Some(TokenTree::Punct(punct)) if punct.as_char() == '*' => {
                segments.push("*".to_owned());
                break;
            }
            Some(TokenTree::Punct(punct)) if punct.as_char() == '<' => {
                // A turbofish: its types are paths of their own.
                generics(tokens, found);
            }
            _ => break,
        }
    }
    let behind = behind(tokens.peek());
    found.push(Mention { segments, line, before, behind });
}

fn eat_colons(tokens: &mut Tokens) -> bool {
    let mut ahead = tokens.clone();
    let colon = |token: Option<TokenTree>| matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == ':');
    if colon(ahead.next()) && colon(ahead.next()) {
        *tokens = ahead;
        return true;
    }
    false
}

fn generics(tokens: &mut Tokens, found: &mut Vec<Mention>) {
    let (mut depth, mut inner, mut last) = (1_u32, TokenStream::new(), ' ');
    for token in tokens.by_ref() {
        let sign = match &token {
            TokenTree::Punct(punct) => Punct::as_char(punct),
            _ => ' ',
        };
        match (sign, last) {
            ('<', _) => depth += 1,
            // The `>` of `->` closes nothing.
            ('>', '-') => {}
            ('>', _) => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        last = sign;
        inner.extend([token]);
    }
    read(inner, &[], found);
}

fn behind(next: Option<&TokenTree>) -> Behind {
    match next {
        Some(TokenTree::Punct(punct)) if punct.as_char() == '!' => Behind::Bang,
        Some(TokenTree::Group(group)) if is_empty_call(group) => Behind::EmptyCall,
        _ => Behind::Other,
    }
}

fn is_empty_call(group: &Group) -> bool {
    group.delimiter() == Delimiter::Parenthesis && group.stream().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str) -> Vec<String> {
        mentions(&source.parse().unwrap()).iter().map(Mention::text).collect()
    }

    #[test]
    fn use_trees_turbofish_and_macros_are_read() {
        assert_eq!(
            texts("use std::{fs, time::{Duration, Instant as Now}, io::*};"),
            ["use", "std::fs", "std::time::Duration", "std::time::Instant", "std::io::*",]
        );
        let call = mentions(&"mpsc::channel::<Vec<a::B>>()".parse().unwrap());
        let call = call.iter().find(|mention| mention.ends("mpsc::channel")).unwrap();
        assert_eq!(call.behind, Behind::EmptyCall);
        assert!(texts("x::<fn() -> u8, b::C>(d)").contains(&"b::C".to_owned()));
        assert!(
            texts("select! { a = std::env::var(\"x\") => {} }").contains(&"std::env::var".into())
        );
    }

    #[test]
    fn words_in_comments_and_strings_are_none() {
        assert!(texts("\"std::fs\" /* tokio */ // HashMap").is_empty());
    }

    #[test]
    fn methods_macros_and_attributes_are_told_apart() {
        let found = mentions(&"a.unwrap(); todo!(); b(unwrap)".parse().unwrap());
        let of = |name: &str| found.iter().filter(|mention| mention.ends(name)).collect::<Vec<_>>();
        assert_eq!((of("unwrap")[0].before, of("unwrap")[1].before), (Before::Dot, Before::Other));
        assert_eq!(of("todo")[0].behind, Behind::Bang);
        let tokens = "mod a {\n#[ignore = \"x\"]\nfn b() { [ignore]; }\n}".parse().unwrap();
        assert_eq!(attributes(&tokens, "ignore"), [2]);
    }
}
