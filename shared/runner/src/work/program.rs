//! What runs a job: the harness, or the program of `--exec`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command_line::WorkOptions;
use crate::error::{Error, Result, While as _};

/// What runs a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// `python -m bench.runner` in a checkout.
    Harness {
        /// The checkout.
        folder: PathBuf,
        /// The Python.
        python: PathBuf,
    },
    /// The words of a command line, with `{config}` and `{result}` in them.
    Exec {
        /// At least one.
        words: Vec<String>,
        /// Where it runs; absent: where the runner does.
        folder: Option<PathBuf>,
    },
}

impl Program {
    /// Takes the program from the options.
    ///
    /// # Errors
    /// When the checkout is not there, or the command is empty or has an open quote.
    pub fn of_options(options: &WorkOptions) -> Result<Self> {
        let folder = options.harness.as_ref().map(|folder| {
            folder.canonicalize().while_(|| format!("find the harness's checkout {}", folder.display()))
        });
        let folder = folder.transpose()?;
        match (&options.exec, folder) {
            (Some(command), folder) => match split_words(command) {
                Some(words) if !words.is_empty() => Ok(Self::Exec { words, folder }),
                _ => Err(Error::Failed(format!("--exec {command:?} is empty or has an open quote"))),
            },
            (None, Some(folder)) => {
                let python = python_of(&folder, options.python.as_deref())?;
                Ok(Self::Harness { folder, python })
            }
            (None, None) => Err(Error::Failed("neither --harness nor --exec says what to run".into())),
        }
    }

    /// The command that runs a job. `resume` is an earlier result that the harness takes up.
    pub fn command(&self, config: &Path, result: &Path, resume: Option<&Path>) -> Command {
        match self {
            Self::Harness { folder, python } => {
                let mut command = Command::new(python);
                command.current_dir(folder).args(["-m", "bench.runner", "--config"]).arg(config);
                if let Some(resume) = resume {
                    command.arg("--resume-from").arg(resume);
                }
                // Lines come as they are printed, not a block at a time.
                command.env("PYTHONUNBUFFERED", "1");
                command
            }
            Self::Exec { words, folder } => {
                let (config, result) = (config.to_string_lossy(), result.to_string_lossy());
                let filled = |word: &String| word.replace("{config}", &config).replace("{result}", &result);
                let mut command = Command::new(filled(&words[0]));
                command.args(words[1..].iter().map(filled));
                if let Some(folder) = folder {
                    command.current_dir(folder);
                }
                command
            }
        }
    }

    /// Where the program has put its result: the harness says it (`said`, relative to its folder), another
    /// program was told.
    pub fn result_path(&self, said: Option<&str>, told: &Path) -> Option<PathBuf> {
        match self {
            Self::Harness { folder, .. } => said.map(|path| folder.join(path)),
            Self::Exec { .. } => Some(told.to_owned()),
        }
        .filter(|path| path.is_file())
    }

    /// Whether it starts the harness's containers.
    pub fn has_containers(&self) -> bool {
        matches!(self, Self::Harness { .. })
    }
}

/// The Python of a checkout: `named`, else its virtual environment's, else the system's.
///
/// # Errors
/// When `named` is a path that leads nowhere.
pub fn python_of(folder: &Path, named: Option<&Path>) -> Result<PathBuf> {
    let own = folder.join(".venv/bin/python");
    match named {
        // A path is resolved here: the harness runs in another folder. Not followed: a virtual environment's
        // Python is a link that must keep its name.
        Some(python) if python.components().count() > 1 => {
            let path = std::path::absolute(python).while_(|| format!("find {}", python.display()))?;
            match path.is_file() {
                true => Ok(path),
                false => Err(Error::Failed(format!("there is no Python at {}", path.display()))),
            }
        }
        Some(python) => Ok(python.to_owned()),
        None if own.is_file() => Ok(own),
        None => Ok("python3".into()),
    }
}

/// Splits a command line at white space, by the shell's rules for `'…'`, `"…"` and `\`; nothing else is
/// special, and no shell runs. `None` for an open quote.
fn split_words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(open), closing) if open == closing => quote = None,
            (None | Some('"'), '\\') => word.get_or_insert_default().push(characters.next()?),
            (Some(_), inner) => word.get_or_insert_default().push(inner),
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, space) if space.is_whitespace() => words.extend(word.take()),
            (None, other) => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_a_shell_would() {
        let words = |line| split_words(line).map(|words| words.join("|"));
        assert_eq!(
            words(r#"  run --in {config}  'a b' "c \" d" e\ f '' "#).unwrap(),
            r#"run|--in|{config}|a b|c " d|e f|"#
        );
        assert_eq!(words(r#"run 'open"#), None);
        assert_eq!(words(""), Some(String::new()));
    }

    #[test]
    fn a_command_gets_its_paths() {
        let words = ["bench", "--in={config}", "{result}"].map(str::to_owned).to_vec();
        let program = Program::Exec { words, folder: None };
        let command = program.command(Path::new("/j/config.json"), Path::new("/j/out.json"), None);
        let arguments: Vec<_> = command.get_args().collect();
        assert_eq!(
            (command.get_program(), arguments),
            (
                "bench".as_ref(),
                vec!["--in=/j/config.json".as_ref(), "/j/out.json".as_ref() as &std::ffi::OsStr]
            )
        );
    }
}
