//! Templates by name: the built-in ones and those of a directory, which is followed while the service runs.

use crate::catalogue::{self, Catalogue};
use crate::kept::Pattern;
use crate::stationery::{Problem, Stationery};
use crate::{locale, message, render};
use kernel::MerchantId;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value};
use runtime::Merchants;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};
use std::{fmt, io};
use tokio_util::sync::CancellationToken;

/// Steps of a template; a runaway one is stopped.
const FUEL: u64 = 50_000;
/// Most bytes that a template may give. Gmail hides what is beyond 102 kB of HTML.
const MAX_OUTPUT: usize = 256 * 1_024;
/// How often the directory is looked at.
const CHECK: Duration = Duration::from_secs(2);

const BODY_TEXT: &str = include_str!("../templates/body.txt");
const BODY_MJML: &str = include_str!("../templates/body.mjml");

/// The files that stand around the opening of every message. `body.html` goes before `body.mjml`, which becomes HTML.
const BODY: [&str; 3] = ["body.txt", "body.html", "body.mjml"];

/// Compiled templates: for all merchants, and anew for those that have files of their own.
///
/// A template `x` is a subject and an opening: in a locale's [catalogue](crate::catalogue), or as the files `x.subject` and
/// `x.opening`, which count for every locale that has none of its own (`x.de.subject`, `x.de.opening`). Files are looked
/// for in the directory and, before that, in the one below it that has the merchant's id.
#[derive(Debug)]
pub struct Templates {
    /// By merchant; the empty one for all others.
    sets: BTreeMap<String, Set>,
    /// By file name: what was compiled.
    sources: Sources,
    directory: PathBuf,
    seen: Fingerprint,
}

/// The templates that count for a merchant.
#[derive(Debug)]
pub struct Set {
    environment: Environment<'static>,
    /// By name: each locale's text, and the one for all others, whose locale is empty.
    texts: BTreeMap<String, Vec<Text>>,
    voices: Vec<Voice>,
}

/// What a template says in a locale: names of compiled templates.
#[derive(Debug, PartialEq, Eq)]
pub struct Text {
    /// Empty: all that have none of their own.
    pub locale: String,
    /// The one of the subject.
    pub subject: String,
    /// The one of the opening.
    pub opening: String,
}

/// Everything around a template's text, in a locale.
#[derive(Debug)]
pub struct Voice {
    /// BCP 47.
    pub locale: String,
    /// Formats, labels, and what must not be said.
    pub catalogue: Catalogue,
    /// Name of the compiled text body.
    pub text: String,
    /// Name of the compiled HTML body.
    pub html: String,
    /// Name of the compiled title of a calendar entry.
    pub calendar_title: String,
    /// What all its messages have in common.
    pub pattern: Arc<Pattern>,
}

type Sources = BTreeMap<String, String>;

/// Name, time of change and size of each file.
type Fingerprint = Vec<(String, SystemTime, u64)>;

/// What is wrong, with the files that it is about.
type Problems = BTreeSet<(Vec<String>, String)>;

impl Templates {
    /// Compiles the built-in templates and those of a directory, if it is there.
    pub fn load(directory: &Path) -> anyhow::Result<Self> {
        let seen = fingerprint(directory)?;
        let (sources, unread) = read(directory, &seen);
        let (templates, mut problems) = Self::compile(sources, directory, seen);
        problems.extend(unread);
        let problems: Vec<_> = problems.into_iter().map(|(_, problem)| problem).collect();
        anyhow::ensure!(problems.is_empty(), "{}", problems.join("; "));
        Ok(templates)
    }

    /// Compiles what the directory holds now. What is broken stays as it was before.
    fn reload(&self, seen: Fingerprint) -> (Self, Vec<String>) {
        /// What was sound may be broken by what it includes, and so on.
        const ROUNDS: usize = 3;
        let (mut sources, mut broken) = read(&self.directory, &seen);
        let mut problems = Vec::new();
        for _ in 0..ROUNDS {
            for file in broken.iter().flat_map(|(files, _)| files) {
                match self.sources.get(file) {
                    Some(before) => sources.insert(file.clone(), before.clone()),
                    None => sources.remove(file),
                };
            }
            problems.extend(broken.into_iter().map(|(_, problem)| problem));
            let next;
            (next, broken) = Self::compile(sources.clone(), &self.directory, seen.clone());
            if broken.is_empty() {
                return (next, problems);
            }
        }
        // Old and new do not go together: all of it stays as it was.
        (Self::compile(self.sources.clone(), &self.directory, seen).0, problems)
    }

    /// Compiles and tries out what is complete; what is not is left out.
    fn compile(sources: Sources, directory: &Path, seen: Fingerprint) -> (Self, Problems) {
        let mut problems = Problems::new();
        let owners: BTreeSet<&str> = sources.keys().filter_map(|file| Some(file.split_once('/')?.0)).collect();
        let compiled = |owner: &str| (owner.to_owned(), Compiler::new(owner, &sources).compile(&mut problems));
        let sets = std::iter::once("").chain(owners).map(compiled).collect();
        (Self { sets, sources, directory: directory.to_owned(), seen }, problems)
    }

    /// The templates of a merchant.
    pub fn of(&self, merchant: &str) -> &Set {
        static NONE: LazyLock<Set> = LazyLock::new(Set::empty);
        self.sets.get(merchant).or_else(|| self.sets.get("")).unwrap_or(&NONE)
    }

    /// The merchants that have files of their own.
    pub fn owners(&self) -> impl Iterator<Item = &str> {
        self.sets.keys().map(String::as_str).filter(|owner| !owner.is_empty())
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Set {
    fn empty() -> Self {
        Self { environment: environment(), texts: BTreeMap::new(), voices: Vec::new() }
    }

    /// The templates that there are for every payer.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let for_all = |texts: &[Text]| texts.iter().any(|t| t.locale.is_empty() || t.locale == FALLBACK);
        self.texts.iter().filter(move |(_, texts)| for_all(texts)).map(|(name, _)| name.as_str())
    }

    /// The locales that a template has a text of its own for.
    pub fn locales(&self, name: &str) -> impl Iterator<Item = &str> {
        let texts = self.texts.get(name).map_or(&[][..], Vec::as_slice);
        texts.iter().map(|t| t.locale.as_str()).filter(|locale| !locale.is_empty())
    }

    /// All locales.
    pub fn voices(&self) -> &[Voice] {
        &self.voices
    }

    /// What a template says to a payer, and the voice that goes with it: in the payer's locale, the merchant's, as it is
    /// for all, or in English.
    pub fn text(&self, name: &str, payer: &str, merchant: &str) -> Option<(&Text, &Voice)> {
        let texts = self.texts.get(name)?;
        let text = locale::choose(&[payer, merchant], texts, |t| &t.locale)
            .or_else(|| texts.iter().find(|t| t.locale.is_empty()))
            .or_else(|| texts.iter().find(|t| t.locale == FALLBACK))?;
        // The same language throughout, in the form that the payer's country gives it. Nobody knows which language a text
        // for all is in: the merchant's, most likely.
        let wanted = match text.locale.as_str() {
            "" => merchant,
            locale if locale::same(locale::language(locale), locale::language(payer)) => payer,
            locale if locale::same(locale::language(locale), locale::language(merchant)) => merchant,
            locale => locale,
        };
        let voice = locale::choose(&[wanted, merchant, FALLBACK], &self.voices, |v| &v.locale)?;
        Some((text, voice))
    }

    /// What a template was compiled from.
    fn source(&self, name: &str) -> String {
        self.environment.get_template(name).map(|template| template.source().to_owned()).unwrap_or_default()
    }

    /// Fills a compiled template.
    pub fn fill(&self, name: &str, values: Value) -> Result<String, String> {
        let template = self.environment.get_template(name).map_err(|e| format!("{name}: {e}"))?;
        let mut output = Bounded(Vec::with_capacity(template.source().len()));
        match template.render_captured_to(values, &mut output) {
            Ok(_) => String::from_utf8(output.0).map_err(|e| format!("{name}: {e}")),
            Err(_) if output.0.len() == MAX_OUTPUT => Err(format!("{name}: gives more than {MAX_OUTPUT} bytes")),
            Err(error) => Err(format!("{name}: {error}")),
        }
    }
}

/// Takes so much and no more.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = MAX_OUTPUT - self.0.len();
        let taken = bytes.get(..bytes.len().min(room)).unwrap_or_default();
        self.0.extend_from_slice(taken);
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Compiles the templates of one merchant, or of all.
struct Compiler<'a> {
    owner: &'a str,
    sources: &'a Sources,
}

impl<'a> Compiler<'a> {
    const fn new(owner: &'a str, sources: &'a Sources) -> Self {
        Self { owner, sources }
    }

    /// The directories of files that count, the nearest last: each a prefix.
    fn levels(&self) -> Vec<String> {
        let own = (!self.owner.is_empty()).then(|| format!("{}/", self.owner));
        std::iter::once(String::new()).chain(own).collect()
    }

    /// The files of a level, by their names there.
    fn files<'b>(&'b self, level: &'b str) -> impl Iterator<Item = (&'b str, &'b String)> {
        self.sources.iter().filter_map(move |(file, text)| {
            file.strip_prefix(level).filter(|name| !name.contains('/')).map(|name| (name, text))
        })
    }

    fn compile(&self, problems: &mut Problems) -> Set {
        let mut set = Set::empty();
        let catalogues = self.catalogues(problems);
        self.voices(&mut set, catalogues, problems);
        self.texts(&mut set, problems);
        set
    }

    /// Each locale's catalogue with the files that it is from.
    fn catalogues(&self, problems: &mut Problems) -> BTreeMap<String, (Catalogue, Vec<String>)> {
        let levels = self.levels();
        let named = levels.iter().flat_map(|level| self.files(level)).filter_map(|(name, _)| locale_file(name));
        let locales: BTreeSet<&str> = catalogue::BUILT_IN.iter().map(|(locale, _)| *locale).chain(named).collect();
        let mut all = BTreeMap::new();
        for locale in locales {
            let mut chain = vec![locale::language(locale), locale];
            chain.dedup();
            let (mut whole, mut files) = (Catalogue::default(), Vec::new());
            for locale in chain {
                whole = catalogue::built_in(locale).map_or_else(|| whole.clone(), |built_in| whole.with(built_in));
                for file in levels.iter().map(|level| format!("{level}{locale}.yaml")) {
                    let Some(text) = self.sources.get(&file) else { continue };
                    match Catalogue::parse(text) {
                        Ok(catalogue) => whole = whole.with(&catalogue),
                        Err(problem) => _ = problems.insert((vec![file.clone()], format!("{file}: {problem}"))),
                    }
                    files.push(file);
                }
            }
            if let Some(problem) = whole.format.fault().filter(|_| !files.is_empty()) {
                problems.insert((files.clone(), format!("{}: {problem}", files.join(" and "))));
                continue;
            }
            all.insert(locale.to_owned(), (whole, files));
        }
        all
    }

    /// What stands around every message, as text or as HTML, with its file. One that does not work is told and left out.
    fn body(
        &self,
        kind: &str,
        catalogues: &BTreeMap<String, (Catalogue, Vec<String>)>,
        problems: &mut Problems,
    ) -> (Cow<'static, str>, Option<String>) {
        static HTML: LazyLock<String> = LazyLock::new(|| mjml(BODY_MJML).unwrap_or_default());
        let levels = self.levels();
        let names = BODY.iter().filter(|name| name.ends_with(".txt") == (kind == "txt"));
        let files = levels.iter().rev().flat_map(|level| names.clone().map(move |name| format!("{level}{name}")));
        for file in files {
            let Some(source) = self.sources.get(&file) else { continue };
            let body = if file.ends_with(".mjml") { mjml(source) } else { Ok(source.clone()) };
            // In English, with own texts or without: if it works in neither, that is its own fault.
            let own = catalogues.get(FALLBACK).map(|(catalogue, _)| catalogue);
            let tried = body.and_then(|body| {
                let name = format!("body.{kind}");
                let add = |english: &Catalogue| Self::add_body(&mut Set::empty(), &name, &body, english);
                let works = own.map_or_else(|| Err("there is no English".to_owned()), add);
                works.or_else(|problem| catalogue::built_in(FALLBACK).map_or(Err(problem), add)).map(|()| body)
            });
            match tried {
                Ok(body) => return (body.into(), Some(file)),
                Err(problem) => problems.insert((vec![file.clone()], format!("{file}: {problem}"))),
            };
        }
        (if kind == "txt" { BODY_TEXT } else { HTML.as_str() }.into(), None)
    }

    fn voices(&self, set: &mut Set, catalogues: BTreeMap<String, (Catalogue, Vec<String>)>, problems: &mut Problems) {
        let (text, text_file) = self.body("txt", &catalogues, problems);
        let (html, html_file) = self.body("html", &catalogues, problems);
        for (locale, (catalogue, catalogue_files)) in catalogues {
            let mut add = |name: &str, body: &str, file: Option<&String>| {
                let problem = Self::add_body(set, name, body, &catalogue).err()?;
                // The body works in English.
                let files = if catalogue_files.is_empty() {
                    file.cloned().into_iter().collect()
                } else {
                    catalogue_files.clone()
                };
                let about = if files.is_empty() { name.to_owned() } else { files.join(" and ") };
                Some((files, format!("{about}: {problem}")))
            };
            let (text_name, html_name) = (format!("{locale}/body.txt"), format!("{locale}/body.html"));
            let text_problem = add(&text_name, &text, text_file.as_ref());
            let html_problem = add(&html_name, &html, html_file.as_ref());
            let calendar_title = format!("{locale}/calendar.title");
            let title_problem = add(&calendar_title, "[[calendar_title]]", None);
            let sound = [&text_problem, &html_problem, &title_problem].iter().all(|problem| problem.is_none());
            problems.extend(text_problem.into_iter().chain(html_problem).chain(title_problem));
            if sound {
                Self::catalogue_texts(set, &locale, &catalogue, &catalogue_files, problems);
                let pattern = Arc::new(message::pattern(set.source(&text_name), &set.source(&html_name)));
                let (text, html) = (text_name, html_name);
                set.voices.push(Voice { locale, catalogue, text, html, calendar_title, pattern });
            }
        }
    }

    /// Compiles and tries out a body with a catalogue's texts in it.
    fn add_body(set: &mut Set, name: &str, body: &str, catalogue: &Catalogue) -> Result<(), String> {
        for key in catalogue::CHARGES {
            let text = catalogue.texts.get(key).ok_or_else(|| format!("there is no text {key:?}"))?;
            text.source("plural", false)?;
        }
        let filled = catalogue.fill(body, name.ends_with(".html"))?;
        set.environment.add_template_owned(name.to_owned(), filled).map_err(|e| e.to_string())?;
        render::try_out(set, name)
    }

    /// The templates that a catalogue brings.
    fn catalogue_texts(set: &mut Set, locale: &str, catalogue: &Catalogue, files: &[String], problems: &mut Problems) {
        for (name, template) in &catalogue.templates {
            let sources = [&template.subject, &template.opening].map(|text| text.source("plural", false));
            let outcome = match sources {
                [Ok(subject), Ok(opening)] => Self::add(set, name, locale, [subject, opening]),
                [Err(problem), _] | [_, Err(problem)] => Err(problem),
            };
            if let Err(problem) = outcome {
                let about = if files.is_empty() { locale.to_owned() } else { files.join(" and ") };
                problems.insert((files.to_owned(), format!("{about}: templates.{name}: {problem}")));
            }
        }
    }

    /// The templates that are files. The nearest one counts, whatever the catalogues say.
    fn texts(&self, set: &mut Set, problems: &mut Problems) {
        for level in self.levels() {
            let pairs = complete(self.files(&level).map(|(name, _)| name));
            // A text for all stands for the built-in ones in every language.
            for name in pairs.iter().filter_map(|[subject, _]| subject.strip_suffix(".subject")) {
                if !name.contains('.') {
                    set.texts.remove(name);
                }
            }
            for pair in pairs {
                let files = pair.clone().map(|file| format!("{level}{file}"));
                let sources = files.clone().map(|file| self.sources.get(&file).cloned().unwrap_or_default());
                let [subject, _] = &pair;
                let stem = subject.strip_suffix(".subject").unwrap_or_default();
                let (name, locale) = stem.split_once('.').unwrap_or((stem, ""));
                if let Err(problem) = Self::add(set, name, locale, sources) {
                    problems.insert((files.to_vec(), format!("{level}{problem}")));
                }
            }
        }
    }

    /// Compiles and tries out a text; a new one takes the place of an old one.
    fn add(set: &mut Set, name: &str, locale: &str, sources: [String; 2]) -> Result<(), String> {
        let stem = if locale.is_empty() { name.to_owned() } else { format!("{name}.{locale}") };
        let parts = ["subject", "opening"].map(|part| format!("{stem}.{part}"));
        for (part, source) in parts.iter().zip(sources) {
            if source.trim().is_empty() {
                return Err(format!("{part}: is empty"));
            }
            let compiled = set.environment.add_template_owned(part.clone(), source);
            compiled.map_err(|e| format!("{part}: {e}"))?;
            render::try_out(set, part)?;
        }
        let [subject, opening] = parts;
        let texts = set.texts.entry(name.to_owned()).or_default();
        texts.retain(|text| !locale::same(&text.locale, locale));
        texts.push(Text { locale: locale.to_owned(), subject, opening });
        Ok(())
    }
}

/// The language that is left when no other is there.
const FALLBACK: &str = "en";

/// HTML of MJML, without what mail programs do not need: fonts from elsewhere, and indentation.
fn mjml(source: &str) -> Result<String, String> {
    let parsed = mrml::parse(source).map_err(|e| e.to_string())?;
    let options = mrml::prelude::render::RenderOptions { fonts: HashMap::new(), ..Default::default() };
    let html = parsed.element.render(&options).map_err(|e| e.to_string())?;
    // Hints for versions of Outlook before 2010, and pixels per inch for later ones.
    let html = without(html, "<!--[if lte mso 11]>", "<![endif]-->");
    let html = without(html, "<!--[if mso]>\n<noscript>", "<![endif]-->");
    let lines = html.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines = lines.collect::<Vec<_>>().join("\n");
    // Lines of a length that mail can have as they are, broken where white space means nothing.
    let blocks = ["<body ", "<div ", "<meta ", "<table ", "<tr>"];
    Ok(blocks.iter().fold(lines, |html, tag| html.replace(&format!(">{tag}"), &format!(">\n{tag}"))))
}

/// A text without its first part from `start` to `end`.
fn without(mut text: String, start: &str, end: &str) -> String {
    if let Some(from) = text.find(start)
        && let Some(length) = text.get(from..).and_then(|rest| rest.find(end))
    {
        text.replace_range(from..from + length + end.len(), "");
    }
    text
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::empty();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    environment.add_filter("length", minijinja::filters::length);
    // Only the HTML body is HTML; a subject or a text must show an ampersand as it is.
    environment.set_auto_escape_callback(
        |name| {
            if name.ends_with(".html") { AutoEscape::Html } else { AutoEscape::None }
        },
    );
    // As the engine's own, but slashes stay: links would grow by a tenth.
    environment.set_formatter(|out, state, value| match (state.auto_escape(), value.as_str()) {
        (AutoEscape::Html, Some(text)) if !value.is_safe() => escape_html(out, text).map_err(Into::into),
        (AutoEscape::None, Some(text)) => out.write_str(text).map_err(Into::into),
        _ => minijinja::escape_formatter(out, state, value),
    });
    environment
}

fn escape_html(out: &mut impl fmt::Write, text: &str) -> fmt::Result {
    let mut rest = text;
    while let Some(at) = rest.find(['&', '<', '>', '"', '\'']) {
        let (before, special) = rest.split_at(at);
        let (special, after) = special.split_at(1);
        out.write_str(before)?;
        out.write_str(match special {
            "&" => "&amp;",
            "<" => "&lt;",
            ">" => "&gt;",
            "\"" => "&quot;",
            _ => "&#39;",
        })?;
        rest = after;
    }
    out.write_str(rest)
}

/// The two files of a template, of which this is one.
fn pair(file: &str) -> Option<[String; 2]> {
    let stem = file.strip_suffix(".subject").or_else(|| file.strip_suffix(".opening"))?;
    (!stem.is_empty() && !stem.starts_with('.')).then(|| ["subject", "opening"].map(|part| format!("{stem}.{part}")))
}

/// The pairs of which both files are there.
fn complete<'a>(files: impl Iterator<Item = &'a str>) -> BTreeSet<[String; 2]> {
    let files: BTreeSet<&str> = files.collect();
    let pairs = files.iter().filter_map(|file| pair(file));
    pairs.filter(|pair| pair.iter().all(|file| files.contains(file.as_str()))).collect()
}

/// The locale of a catalogue's file: `de-AT` of `de-AT.yaml`.
fn locale_file(file: &str) -> Option<&str> {
    let locale = file.strip_suffix(".yaml")?;
    let language = locale::language(locale);
    let is_word = |part: &str| (2..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric());
    (language.len() <= 3 && locale.split('-').all(is_word)).then_some(locale)
}

/// Whether a file is one of ours.
fn is_ours(file: &str) -> bool {
    BODY.contains(&file) || pair(file).is_some() || locale_file(file).is_some()
}

/// The directory's texts, and what could not be read.
fn read(directory: &Path, files: &Fingerprint) -> (Sources, Problems) {
    let (mut sources, mut problems) = (Sources::new(), Problems::new());
    for (file, ..) in files {
        match std::fs::read_to_string(directory.join(file)) {
            Ok(text) => drop(sources.insert(file.clone(), text)),
            Err(error) => _ = problems.insert((vec![file.clone()], format!("{file}: {error}"))),
        }
    }
    (sources, problems)
}

/// The templates' files in a directory and in those of merchants below it. One that is not there holds none.
fn fingerprint(directory: &Path) -> io::Result<Fingerprint> {
    let mut files = Vec::new();
    for path in entries(directory)? {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        // Through links: what is mounted often consists of them.
        if path.is_dir() && MerchantId::try_new(name).is_ok() {
            for below in entries(&path)? {
                let Some(file) = below.file_name().and_then(|file| file.to_str()).filter(|f| is_ours(f)) else {
                    continue;
                };
                note(&mut files, format!("{name}/{file}"), &below)?;
            }
        } else if is_ours(name) {
            note(&mut files, name.to_owned(), &path)?;
        }
    }
    files.sort_unstable();
    Ok(files)
}

fn entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.map(|entry| Ok(entry?.path())).collect(),
    }
}

fn note(files: &mut Fingerprint, name: String, path: &Path) -> io::Result<()> {
    let metadata = std::fs::metadata(path)?;
    if metadata.is_file() {
        files.push((name, metadata.modified()?, metadata.len()));
    }
    Ok(())
}

/// What messages are made of, as it is in force.
#[derive(Debug)]
pub struct Live {
    current: RwLock<Arc<Templates>>,
    /// As it was at the start, like all that merchants' files say.
    stationery: BTreeMap<MerchantId, Stationery>,
    /// What has been complained about already.
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    directory: String,
    missing: BTreeSet<String>,
    broken: BTreeSet<String>,
}

impl Live {
    /// Begins with these, and with what merchants' files lead to. A message goes without what cannot be had of it.
    pub fn new(templates: Templates, merchants: &Merchants) -> Self {
        let config_dir = templates.directory.parent().unwrap_or(Path::new(".")).to_owned();
        let mut stationery = BTreeMap::new();
        for merchant in merchants.iter() {
            let problems = match Stationery::load(&config_dir, merchant) {
                Ok((found, problems)) => {
                    stationery.insert(merchant.id.clone(), found);
                    problems
                }
                Err(problems) => problems,
            };
            for Problem { key, reason } in problems {
                tracing::error!(merchant = %merchant.id, key, reason, "part of a merchant's messages is missing");
            }
        }
        Self { current: RwLock::new(Arc::new(templates)), stationery, told: Mutex::default() }
    }

    /// A merchant's stationery.
    pub fn stationery(&self, merchant: &MerchantId) -> Option<&Stationery> {
        self.stationery.get(merchant)
    }

    /// Those in force now.
    pub fn current(&self) -> Arc<Templates> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Follows the directory until `stop`.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let live = self.clone();
            if let Err(error) = tokio::task::spawn_blocking(move || live.refresh()).await {
                tracing::error!(%error, "templates not looked at");
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(CHECK) => {}
            }
        }
    }

    /// Takes what has changed in the directory, if it is sound.
    pub fn refresh(&self) {
        let current = self.current();
        let seen = match fingerprint(&current.directory) {
            // All gone, with the directory: a mount that comes back rather than somebody's wish.
            Ok(seen) if seen.is_empty() && !current.seen.is_empty() && !current.directory.is_dir() => {
                return self.unreadable("it is not there any more".to_owned());
            }
            Ok(seen) => seen,
            Err(error) => return self.unreadable(error.to_string()),
        };
        if seen == current.seen {
            return;
        }
        let (next, problems) = current.reload(seen);
        if fingerprint(&current.directory).ok().as_ref() != Some(&next.seen) {
            return; // Somebody is writing: the next look will see all of it.
        }
        for problem in problems {
            tracing::error!(problem, "new template is broken and not taken; what was there before stays");
        }
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
        *self.told() = Told::default();
        tracing::info!("templates read again");
    }

    /// Says once that a template is missing.
    pub fn missing(&self, name: &str) {
        if self.told().missing.insert(name.to_owned()) {
            tracing::error!(template = name, "there is no such template: reminders wait for it");
        }
    }

    /// Says once what keeps a message from being made.
    pub fn broken(&self, problem: &str) {
        if self.told().broken.insert(problem.to_owned()) {
            tracing::error!(problem, "messages cannot be made: reminders wait until that is repaired");
        }
    }

    fn unreadable(&self, problem: String) {
        let mut told = self.told();
        if told.directory != problem {
            tracing::error!(problem, "templates directory cannot be read; what was there before stays");
            told.directory = problem;
        }
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of templates that goes with the test.
    struct Directory(PathBuf);

    impl Directory {
        fn with(files: &[(&str, &str)]) -> Self {
            let path = std::env::temp_dir().join(format!("dunlin-templates-{}", kernel::id::new(&kernel::SystemClock)));
            std::fs::create_dir(&path).unwrap();
            let directory = Self(path);
            directory.write(files);
            directory
        }

        fn write_below(&self, directory: &str, files: &[(&str, &str)]) {
            std::fs::create_dir_all(self.0.join(directory)).unwrap();
            for (file, text) in files {
                std::fs::write(self.0.join(directory).join(file), text).unwrap();
            }
        }

        fn write(&self, files: &[(&str, &str)]) {
            for (file, text) in files {
                std::fs::write(self.0.join(file), text).unwrap();
            }
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn says(templates: &Templates, name: &str) -> Option<String> {
        let (text, _) = templates.of("").text(name, "", "")?;
        templates
            .of("")
            .fill(&text.opening, minijinja::context! { number => "R-1", total => "€1", due_on => "today" })
            .ok()
    }

    fn live(directory: &Directory) -> Live {
        Live::new(Templates::load(&directory.0).unwrap(), &Merchants::default())
    }

    #[test]
    fn complete_pairs_have_names_and_locales() {
        let directory = Directory::with(&[
            ("nudge.subject", "s"),
            ("nudge.opening", "o"),
            ("nudge.de.subject", "s"),
            ("nudge.de.opening", "o"),
            ("nudge.fr.subject", "s"),
            ("half.subject", "s"),
            ("only.de.subject", "s"),
            ("only.de.opening", "o"),
            (".nudge.subject", "an editor's"),
            ("notes.txt", "{% nothing of ours"),
        ]);
        let templates = Templates::load(&directory.0).unwrap();
        let set = templates.of("");
        let names: Vec<_> = set.names().collect();
        assert_eq!(names, ["due-today", "final", "firm", "friendly", "nudge", "payment-failed", "upcoming"]);
        assert_eq!(set.locales("nudge").collect::<Vec<_>>(), ["de"]);
        assert_eq!((set.locales("firm").count(), set.locales("nobody").count()), (14, 0));
        let said =
            |name, payer, merchant| set.text(name, payer, merchant).map(|(t, v)| (t.subject.clone(), v.locale.clone()));
        let expected = |subject: &str, voice: &str| Some((subject.to_owned(), voice.to_owned()));
        assert_eq!(said("nudge", "DE_at", "en"), expected("nudge.de.subject", "de-AT"));
        assert_eq!(said("nudge", "fr", "de-CH"), expected("nudge.de.subject", "de-CH"), "the merchant's is next");
        assert_eq!(said("nudge", "fr", "en"), expected("nudge.subject", "en"), "nobody knows its language");
        assert_eq!(said("nudge", "fr", "it"), expected("nudge.subject", "it"));
        assert_eq!(said("only", "", "de"), expected("only.de.subject", "de"));
        assert_eq!((said("only", "fr", "en"), said("half", "", "")), (None, None));
        assert_eq!(said("firm", "xx", "yy"), expected("firm.en.subject", "en"));
        assert_eq!(said("firm", "en-US", "de"), expected("firm.en-US.subject", "en-US"));
        assert_eq!(said("firm", "es-MX", "de"), expected("firm.es.subject", "es"));
    }

    #[test]
    fn a_text_for_all_stands_for_every_language_and_a_merchants_own_goes_first() {
        let directory = Directory::with(&[
            ("firm.subject", "firm, all"),
            ("firm.opening", "o"),
            ("de.yaml", "templates: { final: { subject: letztmals, opening: o } }\ntexts: { pay_now: Los }"),
        ]);
        directory.write_below(
            "globex",
            &[("body.txt", "[[own]] {{ wording[0].text }}"), ("en.yaml", "texts: { own: text }")],
        );
        let faults = Templates::load(&directory.0).unwrap_err().to_string();
        assert!(faults.contains("globex/body.txt: there is no text \"own\""), "in other languages: {faults}");
        assert!(!faults.contains("en.yaml"), "{faults}");
        std::fs::remove_dir_all(directory.0.join("globex")).unwrap();
        directory.write_below(
            "acme",
            &[
                ("firm.subject", "firm, acme"),
                ("firm.opening", "o"),
                ("de.yaml", "texts: { pay_now: Zahlen }"),
                ("cs.yaml", "texts: { greeting: Dobrý den }"),
            ],
        );
        let faults = Templates::load(&directory.0).unwrap_err().to_string();
        assert_eq!(faults, "acme/cs.yaml: format.date: needs {d}, {month} and {y}", "a new language has to be whole");
        std::fs::remove_file(directory.0.join("acme/cs.yaml")).unwrap();
        let templates = Templates::load(&directory.0).unwrap();
        let subject = |merchant: &str, name| {
            let set = templates.of(merchant);
            let (text, voice) = set.text(name, "de", "de").unwrap();
            let pay = voice.catalogue.plain("pay_now").to_owned();
            (set.fill(&text.subject, minijinja::context! {}).unwrap(), pay)
        };
        assert_eq!(subject("acme", "firm"), ("firm, acme".to_owned(), "Zahlen".to_owned()));
        assert_eq!(subject("acme", "final"), ("letztmals".to_owned(), "Zahlen".to_owned()));
        assert_eq!(subject("globex", "firm"), ("firm, all".to_owned(), "Los".to_owned()));
        assert_eq!(templates.owners().collect::<Vec<_>>(), ["acme"]);
    }

    #[test]
    fn every_fault_is_told_at_the_start() {
        let directory = Directory::with(&[
            ("firm.opening", "{% if"),
            ("firm.subject", "s"),
            ("nudge.subject", "{{ no_such_word }}"),
            ("nudge.opening", "o"),
            ("blank.subject", " "),
            ("blank.opening", "o"),
            ("body.txt", "{{ opening }}"),
            ("body.mjml", "<mjml><mj-body>"),
            ("fr.yaml", "texts: { greeting: [a] }"),
            ("sv.yaml", "texts: { more: { one: x } }"),
        ]);
        let faults = Templates::load(&directory.0).unwrap_err().to_string();
        for expected in [
            "firm.opening: ",
            "nudge.subject: ",
            "blank.subject: is empty",
            "body.txt: leaves out the wording",
            "body.mjml: ",
            "fr.yaml: ",
            "sv.yaml: has no form \"other\"",
        ] {
            assert!(faults.contains(expected), "{expected:?} is missing in {faults}");
        }
    }

    #[test]
    fn what_runs_away_is_stopped() {
        let many = "{% for a in range(200) %}{% for b in range(200) %}x{% endfor %}{% endfor %}";
        let long = format!("{{% for a in lines %}}{}{{% endfor %}}", "x".repeat(MAX_OUTPUT));
        for (text, expected) in [(many, "unknown function"), (long.as_str(), "gives more than 262144 bytes")] {
            let directory = Directory::with(&[("nudge.subject", "s"), ("nudge.opening", text)]);
            let faults = Templates::load(&directory.0).unwrap_err().to_string();
            assert!(faults.contains(expected), "{faults}");
        }
        let deep = "{% for a in lines %}".repeat(17) + &"{% endfor %}".repeat(17);
        let directory = Directory::with(&[("nudge.subject", "s"), ("nudge.opening", &format!("o{deep}"))]);
        let faults = Templates::load(&directory.0).unwrap_err().to_string();
        assert!(faults.contains("fuel"), "{faults}");
    }

    #[test]
    fn a_directory_is_followed_and_broken_news_is_not_taken() {
        let directory = Directory::with(&[("nudge.subject", "s"), ("nudge.opening", "old")]);
        let live = live(&directory);
        directory.write(&[("nudge.opening", "{{ no_such_word }}"), ("new.subject", "s"), ("new.opening", "new")]);
        live.refresh();
        assert_eq!(says(&live.current(), "nudge").unwrap(), "old");
        assert_eq!(says(&live.current(), "new").unwrap(), "new", "others' faults are not its own");
        let before = live.current();
        live.refresh();
        assert!(Arc::ptr_eq(&before, &live.current()), "nothing has changed: nothing is compiled");

        directory.write(&[("nudge.opening", "repaired"), ("firm.subject", "s"), ("firm.opening", "{% if")]);
        live.refresh();
        assert_eq!(says(&live.current(), "nudge").unwrap(), "repaired");
        assert_eq!(says(&live.current(), "firm"), says(&before, "firm"), "the built-in one stays");
        std::fs::remove_file(directory.0.join("new.opening")).unwrap();
        live.refresh();
        assert_eq!(says(&live.current(), "new"), None);

        directory.write_below("acme", &[("de.yaml", "texts: { pay_now: Zahlen }"), ("body.txt", "{{ opening }}")]);
        live.refresh();
        let current = live.current();
        let (_, voice) = current.of("acme").text("firm", "de", "").unwrap();
        assert_eq!(voice.catalogue.plain("pay_now"), "Zahlen");
        directory.write_below("acme", &[("de.yaml", "texts: [")]);
        live.refresh();
        let current = live.current();
        let (_, voice) = current.of("acme").text("firm", "de", "").unwrap();
        assert_eq!(voice.catalogue.plain("pay_now"), "Zahlen", "a broken file does not take a good one's place");
        std::fs::remove_dir_all(&directory.0).unwrap();
        live.refresh();
        assert_eq!(says(&live.current(), "nudge").unwrap(), "repaired", "a mount may come back");
    }
}
