-- 047_notes.sql: what is told of a repo besides its snapshots, on its way into the vault.

-- A row is a note: a small object in the vault that tells what no manifest does, as who made a push whose report came
-- after the snapshot. It is written in the transaction that records what it tells, put into the vault right after, or by
-- the next chore where that run died, and never changed. A rebuild reads the notes back, in the order of their keys.
create table note (
  key     text        primary key,  -- in the vault; begins with the repo's id, then has the time
  repo_id uuid        not null references repo on delete cascade,
  kind    text        not null check (kind <> ''),
  at      timestamptz not null,     -- as its key says: each is later than the one before it
  sha256  sha256_hex  not null,     -- of the stored bytes
  body    bytea                     -- the bytes; null: they are in the vault
);
create index note_of_repo on note (repo_id, at);
create index note_waiting on note (at) where body is not null;
