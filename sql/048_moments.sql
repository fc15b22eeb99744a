-- 048_moments.sql: moments that were passed over between two looks, and of which a report told later.

-- A row is such a moment: the refs as they were between the snapshot before and this one. Its number never changes
-- and is never used again; its place among the moments of its snapshot says which was first, as a later report can tell
-- of an earlier moment. What it held are the refs of the snapshot before with the moves that led to it and to those
-- before it (ref_change.moment). Its note in the vault says the same.
create table moment (
  repo_id     uuid            not null references repo,
  snapshot    snapshot_number not null,
  number      int             not null check (number > 0),
  place       int             not null check (place > 0),
  taken_at    timestamptz     not null,  -- when it was pushed
  head        ref_target,                -- null: the remote did not tell
  refs_count  count_of        not null,  -- without HEAD
  refs_digest sha256_hex      not null,  -- of the whole map; see refs.digest
  log         snapshot_number not null,  -- the first snapshot known by which the pack log had all of its objects
  primary key (repo_id, snapshot, number)
);

alter table ref_change add column moment int check (moment > 0);  -- the number that it led to; null: the snapshot itself
