//! Templates by name: the built-in ones and those of a directory, which is followed while the service runs.

use crate::locale;
use crate::render;
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};
use tokio_util::sync::CancellationToken;

/// Steps of a template; a runaway one is stopped.
const FUEL: u64 = 50_000;
/// How often the directory is looked at.
const CHECK: Duration = Duration::from_secs(2);

/// The built-in templates; files of the same names in `<config_dir>/templates` replace them.
const BUILT_IN: [(&str, &str); 8] = [
    ("friendly.subject", include_str!("../templates/friendly.subject")),
    ("friendly.opening", include_str!("../templates/friendly.opening")),
    ("firm.subject", include_str!("../templates/firm.subject")),
    ("firm.opening", include_str!("../templates/firm.opening")),
    ("final.subject", include_str!("../templates/final.subject")),
    ("final.opening", include_str!("../templates/final.opening")),
    (BODY[0], include_str!("../templates/body.txt")),
    (BODY[1], include_str!("../templates/body.html")),
];

/// What stands around the opening of every message.
pub const BODY: [&str; 2] = ["body.txt", "body.html"];

/// Compiled templates.
///
/// A template `x` is the files `x.subject` and `x.opening`; `x.de.subject` and `x.de.opening` are what it says in German.
#[derive(Debug)]
pub struct Templates {
    environment: Environment<'static>,
    /// By name: each locale's text, and the one for all others, whose locale is empty.
    texts: BTreeMap<String, Vec<Text>>,
    /// By file name: what was compiled.
    sources: Sources,
    directory: PathBuf,
    seen: Fingerprint,
}

/// What a template says in a locale: names of compiled files.
#[derive(Debug, PartialEq, Eq)]
pub struct Text {
    locale: String,
    /// The file with the subject.
    pub subject: String,
    /// The file with the opening.
    pub opening: String,
}

type Sources = BTreeMap<String, String>;

/// Name, time of change and size of each file.
type Fingerprint = Vec<(String, SystemTime, u64)>;

/// What is wrong with a file, or with the two that belong together.
type Problems = Vec<([String; 2], String)>;

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
        let mut environment = environment();
        let (mut texts, mut problems): (BTreeMap<_, Vec<_>>, Problems) = Default::default();
        for parts in complete(&sources) {
            let compiled = parts.iter().try_for_each(|part| {
                let source = sources.get(part).cloned().unwrap_or_default();
                environment.add_template_owned(part.clone(), source).map_err(|e| format!("{part}: {e}"))
            });
            match (compiled, parts.first().and_then(|subject| subject.strip_suffix(".subject"))) {
                (Err(problem), _) => problems.push((parts, problem)),
                (Ok(()), Some(stem)) => {
                    let (name, locale) = stem.split_once('.').unwrap_or((stem, ""));
                    let (name, locale, [subject, opening]) = (name.to_owned(), locale.to_owned(), parts.clone());
                    texts.entry(name).or_default().push(Text { locale, subject, opening });
                }
                (Ok(()), None) => {}
            }
        }
        let templates = Self { environment, texts, sources, directory: directory.to_owned(), seen };
        for parts in complete(&templates.sources) {
            if problems.iter().all(|(broken, _)| *broken != parts)
                && let Some(problem) = templates.try_out(&parts)
            {
                problems.push((parts, problem));
            }
        }
        (templates, problems)
    }

    /// Fills the files with what a message can be about; says what goes wrong.
    fn try_out(&self, parts: &[String; 2]) -> Option<String> {
        parts.iter().find_map(|part| {
            let source = self.sources.get(part).map_or("", String::as_str);
            if source.trim().is_empty() { Some(format!("{part}: is empty")) } else { render::try_out(self, part).err() }
        })
    }

    /// The templates that there are: complete, for every payer.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let for_all = |texts: &[Text]| texts.iter().any(|t| t.locale.is_empty());
        self.texts.iter().filter(move |(_, texts)| for_all(texts)).map(|(name, _)| name.as_str())
    }

    /// The locales that a template has a text of its own for.
    pub fn locales(&self, name: &str) -> impl Iterator<Item = &str> {
        let texts = self.texts.get(name).map_or(&[][..], Vec::as_slice);
        texts.iter().map(|t| t.locale.as_str()).filter(|locale| !locale.is_empty())
    }

    /// What a template says to a payer: in the payer's locale, the merchant's, or as it is.
    pub fn text(&self, name: &str, payer: &str, merchant: &str) -> Option<&Text> {
        let texts = self.texts.get(name)?;
        let chosen = locale::choose(&[payer, merchant], texts, |t| &t.locale);
        chosen.or_else(|| texts.iter().find(|t| t.locale.is_empty()))
    }

    /// Fills one file.
    pub fn fill(&self, file: &str, context: &impl serde::Serialize) -> Result<String, String> {
        let template = self.environment.get_template(file);
        let values = minijinja::Value::from(minijinja::value::Serde(context));
        template.and_then(|t| t.render(values)).map_err(|e| format!("{file}: {e}"))
    }
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
    environment
}

/// The two files that make sense together, of which this is one. `None`: no template's.
fn parts(file: &str) -> Option<[String; 2]> {
    if BODY.contains(&file) {
        return Some(BODY.map(str::to_owned));
    }
    let stem = file.strip_suffix(".subject").or_else(|| file.strip_suffix(".opening"))?;
    (!stem.is_empty() && !stem.starts_with('.')).then(|| ["subject", "opening"].map(|part| format!("{stem}.{part}")))
}

/// The pairs of which both files are there.
fn complete(sources: &Sources) -> BTreeSet<[String; 2]> {
    let pairs = sources.keys().filter_map(|file| parts(file));
    pairs.filter(|pair| pair.iter().all(|file| sources.contains_key(file))).collect()
}

/// The built-in texts with the directory's in their place, and what could not be read.
fn read(directory: &Path, files: &Fingerprint) -> (Sources, Problems) {
    let mut sources: Sources = BUILT_IN.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect();
    let mut problems = Vec::new();
    for (file, ..) in files {
        match std::fs::read_to_string(directory.join(file)) {
            Ok(text) => drop(sources.insert(file.clone(), text)),
            Err(error) => problems.extend(parts(file).map(|parts| (parts, format!("{file}: {error}")))),
        }
    }
    (sources, problems)
}

/// The templates' files in a directory. One that is not there holds none.
fn fingerprint(directory: &Path) -> io::Result<Fingerprint> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|name| parts(name).is_some()) else {
            continue;
        };
        // Through links: what is mounted often consists of them.
        let metadata = std::fs::metadata(&path)?;
        if metadata.is_file() {
            files.push((name.to_owned(), metadata.modified()?, metadata.len()));
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// The templates in force.
#[derive(Debug)]
pub struct Live {
    current: RwLock<Arc<Templates>>,
    /// What has been complained about already.
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    directory: String,
    missing: BTreeSet<String>,
}

impl Live {
    /// Begins with these.
    pub fn new(templates: Templates) -> Self {
        Self { current: RwLock::new(Arc::new(templates)), told: Mutex::default() }
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
        templates.text(name, "", "").map(|text| templates.sources[&text.opening].clone())
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
        assert_eq!(templates.names().collect::<Vec<_>>(), ["final", "firm", "friendly", "nudge"]);
        assert_eq!(templates.locales("nudge").collect::<Vec<_>>(), ["de"]);
        assert_eq!(templates.locales("firm").count() + templates.locales("nobody").count(), 0);
        let subject = |name, payer, merchant| templates.text(name, payer, merchant).map(|t| t.subject.as_str());
        assert_eq!(subject("nudge", "DE_at", "en"), Some("nudge.de.subject"));
        assert_eq!(subject("nudge", "fr", "de-CH"), Some("nudge.de.subject"), "the merchant's is next");
        assert_eq!(subject("nudge", "fr", "en"), Some("nudge.subject"));
        assert_eq!(subject("only", "", "de"), Some("only.de.subject"));
        assert_eq!((subject("only", "fr", "en"), subject("half", "", "")), (None, None));
    }

    #[test]
    fn every_fault_is_told_at_the_start() {
        let directory = Directory::with(&[
            ("firm.opening", "{% if"),
            ("nudge.subject", "{{ no_such_word }}"),
            ("nudge.opening", "o"),
            ("blank.subject", " "),
            ("blank.opening", "o"),
            ("body.txt", "{{ opening }}"),
        ]);
        let faults = Templates::load(&directory.0).unwrap_err().to_string();
        for expected in
            ["firm.opening: ", "nudge.subject: ", "blank.subject: is empty", "body.txt: leaves out the wording"]
        {
            assert!(faults.contains(expected), "{expected:?} is missing in {faults}");
        }
    }

    #[test]
    fn a_directory_is_followed_and_broken_news_is_not_taken() {
        let directory = Directory::with(&[("nudge.subject", "s"), ("nudge.opening", "old")]);
        let live = Live::new(Templates::load(&directory.0).unwrap());
        directory.write(&[("nudge.opening", "{{ no_such_word }}"), ("new.subject", "s"), ("new.opening", "new")]);
        live.refresh();
        assert_eq!(says(&live.current(), "nudge").unwrap(), "old");
        assert_eq!(says(&live.current(), "new").unwrap(), "new", "others' faults are not its own");
        let before = live.current();
        live.refresh();
        assert!(Arc::ptr_eq(&before, &live.current()), "nothing has changed: nothing is compiled");

        directory.write(&[("nudge.opening", "repaired"), ("firm.opening", "{% if")]);
        live.refresh();
        assert_eq!(says(&live.current(), "nudge").unwrap(), "repaired");
        assert_eq!(says(&live.current(), "firm"), says(&before, "firm"), "the built-in one stays");
        std::fs::remove_file(directory.0.join("new.opening")).unwrap();
        live.refresh();
        assert_eq!(says(&live.current(), "new"), None);
        std::fs::remove_dir_all(&directory.0).unwrap();
        live.refresh();
        assert_eq!(says(&live.current(), "nudge").unwrap(), "repaired", "a mount may come back");
    }
}
