//! From a task file and flags to the request that creates a task.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use pgconvoy_proto::v1;
use pgconvoy_shared::endpoint::{Endpoint, Side};
use pgconvoy_shared::secret::Secret;
use pgconvoy_shared::spec::{Draft, PasswordRef, Submission, file};

use crate::output::note;
use crate::password;
use crate::problem::Problem;

/// What `migrate`, `precheck` and `verify` are told about the task.
#[derive(Debug, Clone, Args)]
pub(crate) struct SpecFlags {
    /// Database to read from: postgres://USER@HOST:PORT/DATABASE?sslmode=…
    #[arg(long, value_name = "URL", env = "PGCONVOY_SOURCE", hide_env_values = true)]
    source: Option<String>,
    /// Database to write to; it must exist
    #[arg(
        long,
        value_name = "URL",
        env = "PGCONVOY_DESTINATION",
        hide_env_values = true,
        visible_alias = "target"
    )]
    destination: Option<String>,
    /// Task file (YAML); flags win over it
    #[arg(short = 'f', long = "file", value_name = "TASK.yaml")]
    file: Option<PathBuf>,
    /// What to move: schema, full, incremental
    #[arg(long, value_name = "TYPE,…", value_delimiter = ',')]
    types: Option<Vec<String>>,
    /// Shards copied at once [default: from the cores]
    #[arg(long, value_name = "N")]
    jobs: Option<u32>,
}

/// What warnings of the precheck are acknowledged.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Acknowledge {
    /// Acknowledge these warnings of the precheck, by code
    #[arg(long, value_name = "CODE,…", value_delimiter = ',')]
    pub(crate) ignore: Vec<String>,
    /// Acknowledge all warnings of the precheck, and list them; errors stay errors
    #[arg(long)]
    pub(crate) yes: bool,
}

/// A valid specification whose passwords are not read yet.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) submission: Submission,
    /// Nobody said how many jobs, so they came from this machine's cores.
    pub(crate) jobs_by_default: bool,
    /// What relative paths are seen from.
    folder: PathBuf,
}

impl SpecFlags {
    /// Everything that file and flags say, checked: for a command that does all from this machine.
    pub(crate) fn wanted(self) -> Result<Wanted, Problem> {
        let (mut draft, folder) = match &self.file {
            Some(path) => read(path)?,
            None => (Draft::default(), PathBuf::new()),
        };
        for (side, key, url) in [
            (Side::Source, "--source", &self.source),
            (Side::Destination, "--destination", &self.destination),
        ] {
            if let Some(url) = url {
                draft.url(side, key, url);
            }
        }
        if let Some(types) = &self.types {
            draft.types("--types", types.iter().map(String::as_str));
        }
        draft.jobs = self.jobs.or(draft.jobs);
        draft.name_after_source();
        let wanted = Wanted::new(draft, folder)?;
        wanted.refuse_sites()?;
        Ok(wanted)
    }
}

impl Wanted {
    /// What a task file says alone.
    pub(crate) fn from_file(path: &Path) -> Result<Self, Problem> {
        let (draft, folder) = read(path)?;
        Self::new(draft, folder)
    }

    fn new(draft: Draft, folder: PathBuf) -> Result<Self, Problem> {
        let jobs_by_default = draft.jobs.is_none();
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        let submission = draft.finish(u32::try_from(cores).unwrap_or(u32::MAX))?;
        for notice in &submission.notices {
            note(&format!("note: {notice}"));
        }
        Ok(Self { submission, jobs_by_default, folder })
    }

    /// A site says that not every machine reaches the database, and this one is of no site.
    fn refuse_sites(&self) -> Result<(), Problem> {
        let spec = &self.submission.spec;
        let ends = [(Side::Source, &spec.source), (Side::Destination, &spec.destination)];
        let of_a_site = ends.into_iter().find_map(|(side, end)| Some((side, end.site.as_ref()?)));
        let Some((side, site)) = of_a_site else { return Ok(()) };
        let message = format!(
            "the {side} is of site `{site}`, and this command runs its own agents, of no site"
        );
        let remedy = "leave out `site` if this machine reaches both databases; else start agents at the sites, and use \
                      `pgconvoy task create`";
        Err(Problem::usage("sites_need_agents", message, remedy))
    }

    /// The passwords as they are told now: at the source, at the destination. Empty = none is told.
    pub(crate) fn passwords(&self) -> Result<[String; 2], Problem> {
        let Submission { spec, source_password, destination_password, notices: _ } =
            &self.submission;
        let find = |side, named: Option<&PasswordRef>, endpoint: &Endpoint| {
            let found = password::find(side, named, endpoint, &self.folder)?;
            let exposed = found.as_ref().map(Secret::expose).unwrap_or_default();
            Ok::<_, Problem>(exposed.to_owned())
        };
        Ok([
            find(Side::Source, source_password.as_ref(), &spec.source)?,
            find(Side::Destination, destination_password.as_ref(), &spec.destination)?,
        ])
    }

    /// The request, passwords read.
    pub(crate) fn request(
        self,
        request_id: String,
        acknowledge: Acknowledge,
    ) -> Result<v1::CreateTaskRequest, Problem> {
        let [source_password, destination_password] = self.passwords()?;
        Ok(v1::CreateTaskRequest {
            request_id,
            spec: Some(self.submission.spec.into()),
            source_password,
            destination_password,
            start: false,
            acknowledge: acknowledge.ignore,
            acknowledge_all: acknowledge.yes,
            precheck_only: false,
            verify_only: false,
            verify: None,
        })
    }
}

/// A task file, and the folder that its relative paths are seen from; `-` is standard input.
fn read(path: &Path) -> Result<(Draft, PathBuf), Problem> {
    let text = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(path)
    };
    let text = text.map_err(|error| {
        let message = format!("cannot read the task file `{}`: {error}", path.display());
        Problem::usage("file_unreadable", message, "see whether the path is right")
    })?;
    let folder = path.parent().map(Path::to_owned).unwrap_or_default();
    Ok((file::read(&text), folder))
}

/// A request id of our own making: the same for each repetition within one command.
pub(crate) fn new_request_id(command: &str) -> String {
    use rand::RngExt;
    format!("{command}-{:032x}", rand::rng().random::<u128>())
}
