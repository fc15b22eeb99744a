-- 006_proofs.sql: what was brought back, and what was shown to come back.

-- A row is a restore that a person asked for and that came to its end, whether every ref arrived or not.
create table restore (
  id          bigint          primary key generated always as identity,
  repo_id     uuid            not null references repo,
  snapshot    snapshot_number not null,
  destination text            not null,   -- in words, without credentials
  results     jsonb           not null,   -- how many refs came to which result
  verified    boolean         not null,   -- every ref that was written was read back equal
  finished_at timestamptz     not null
);
create index restore_of_repo on restore (repo_id, finished_at);

-- A row is a drill: a restore made only to prove that it works, with its evidence.
create table drill (
  id          bigint          primary key generated always as identity,
  repo_id     uuid            not null references repo,
  snapshot    snapshot_number not null,
  refs        count_of        not null,
  bytes       count_of        not null,   -- read from the vault
  seconds     double precision not null check (seconds >= 0),
  problems    text[]          not null,   -- empty: it works
  finished_at timestamptz     not null
);
create index drill_of_repo on drill (repo_id, finished_at);
