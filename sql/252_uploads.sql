-- 252_uploads.sql: repositories that people bring in as files, while they are uploaded and proved.

-- A row is one file: a bundle, or an archive of a repository. Its pieces wait in the vault, encrypted, until it is proved or
-- three days have passed without another; what became of it is shown for 30 days. What is sound becomes a snapshot of `repo_id`.
create table upload (
  id          uuid        primary key,
  team_id     uuid        not null references team on delete cascade,
  person_id   uuid        references person on delete set null,  -- who uploads it; null: deleted since
  file        text        not null check (octet_length(file) between 1 and 1000),  -- what it is called where it comes from
  name        text        not null check (octet_length(name) between 1 and 500),   -- of the repo
  repo_id     uuid        references repo on delete set null,    -- null: it is made when all has come, or is gone
  made        boolean     not null default false,                -- the repo was made for it, and goes again if it is refused
  keep_refs   boolean     not null default false,                -- refs that the file does not have stay in the repo
  bytes       bigint      not null check (bytes > 0),
  came        bigint      not null default 0 check (came between 0 and bytes),
  state       text        not null default 'coming' check (state in ('coming', 'proving', 'done', 'refused', 'dropped')),
  why         text,                                              -- of one that was refused or dropped
  result      jsonb,                                             -- of one that is done
  job_id      uuid,                                              -- that proves it; null: not all has come
  began_at    timestamptz not null,
  moved_at    timestamptz not null,                              -- when the last piece came, or the state changed
  check ((state in ('refused', 'dropped')) = (why is not null)),
  check ((state = 'done') = (result is not null))
);
create index upload_of_team on upload (team_id, began_at desc);
create index upload_of_repo on upload (repo_id) where repo_id is not null;

-- A row is one piece of a file: an object in the vault.
create table upload_piece (
  upload_id uuid   not null references upload on delete cascade,
  start     bigint not null check (start >= 0),  -- of its first byte in the file
  bytes     int    not null check (bytes > 0),
  key       text   not null unique,
  primary key (upload_id, start)
);

-- As in 012, with `import`: proving what was uploaded, and taking a snapshot of it.
alter table job drop constraint job_kind_check;
alter table job add constraint job_kind_check
  check (kind in ('sync', 'restore', 'drill', 'verify', 'bundle', 'compact', 'import'));
