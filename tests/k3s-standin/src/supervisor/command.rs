//! Command lines of a unit: prefix, quotes, `%N`, `$VAR` and `${VAR}` (systemd.service(5), COMMAND LINES).

use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// `-`: its failure does not count.
    pub may_fail: bool,
    pub words: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadCommand {
    #[error("empty command line")]
    Empty,
    #[error("unbalanced quotes in `{0}`")]
    Quotes(String),
    #[error("prefix `{0}` is not honoured here")]
    Prefix(char),
    #[error("specifier `%{0}` is not honoured here")]
    Specifier(char),
}

pub fn parse(line: &str, unit: &str) -> Result<Command, BadCommand> {
    let mut rest = line.trim();
    let mut may_fail = false;
    while let Some(prefix) = rest.chars().next().filter(|c| "-@:+!|".contains(*c)) {
        match prefix {
            '-' => may_fail = true,
            other => return Err(BadCommand::Prefix(other)),
        }
        rest = &rest[1..];
    }
    let words = split(&specifiers(rest, unit)?)?;
    if words.is_empty() { Err(BadCommand::Empty) } else { Ok(Command { may_fail, words }) }
}

/// `%N` is the unit's name without its suffix, `%n` with it, `%%` a percent sign.
pub fn specifiers(text: &str, unit: &str) -> Result<String, BadCommand> {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('N' | 'p') => out += unit.rsplit_once('.').map_or(unit, |(stem, _)| stem),
            Some('n') => out += unit,
            Some('%') | None => out.push('%'),
            Some(other) => return Err(BadCommand::Specifier(other)),
        }
    }
    Ok(out)
}

fn split(text: &str) -> Result<Vec<String>, BadCommand> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', _) => word.get_or_insert_default().extend(chars.next()),
            (c, Some(q)) if c == q => quote = None,
            (c, Some(_)) => word.get_or_insert_default().push(c),
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, None) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    if quote.is_some() { Err(BadCommand::Quotes(text.to_owned())) } else { Ok(words) }
}

impl Command {
    /// `${VAR}` inside a word; a word that is `$VAR` alone becomes as many words as the value has.
    pub fn expanded(&self, env: &BTreeMap<String, String>) -> Vec<String> {
        let mut out = Vec::new();
        for word in &self.words {
            match word.strip_prefix('$').filter(|name| is_name(name)) {
                Some(name) => {
                    let value = env.get(name).map(String::as_str).unwrap_or_default();
                    out.extend(value.split_whitespace().map(str::to_owned));
                }
                None => out.push(braces(word, env)),
            }
        }
        out
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn braces(word: &str, env: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = word;
    while let Some((before, after)) = rest.split_once("${") {
        out += before;
        match after.split_once('}').filter(|(name, _)| is_name(name)) {
            Some((name, behind)) => {
                out += env.get(name).map(String::as_str).unwrap_or_default();
                rest = behind;
            }
            None => {
                out += "${";
                rest = after;
            }
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k3s_s_lines_are_read() {
        let pre = parse("-/sbin/modprobe br_netfilter", "k3s.service").unwrap();
        assert!(pre.may_fail);
        assert_eq!(pre.words, ["/sbin/modprobe", "br_netfilter"]);
        let start = parse("/usr/local/bin/k3s 'server' \"a b\"", "k3s.service").unwrap();
        assert_eq!(start.words, ["/usr/local/bin/k3s", "server", "a b"]);
    }

    #[test]
    fn specifiers_name_the_unit() {
        assert_eq!(specifiers("/etc/default/%N", "k3s-agent.service").unwrap(), "/etc/default/k3s-agent");
        assert_eq!(specifiers("%i", "k3s.service"), Err(BadCommand::Specifier('i')));
    }

    #[test]
    fn variables_expand_by_word_and_inside_words() {
        let env = BTreeMap::from([("OPTS".to_owned(), "a b".to_owned())]);
        let command = parse("/x $OPTS --y=${OPTS} $NONE ${", "u").unwrap();
        assert_eq!(command.expanded(&env), ["/x", "a", "b", "--y=a b", "${"]);
    }

    #[test]
    fn what_is_not_honoured_is_refused() {
        assert_eq!(parse("+/x", "u"), Err(BadCommand::Prefix('+')));
        assert!(matches!(parse("/x 'y", "u"), Err(BadCommand::Quotes(_))));
        assert_eq!(parse(" ", "u"), Err(BadCommand::Empty));
    }
}
