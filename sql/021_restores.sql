-- 021_restores.sql: who restored what to where, and what it takes to undo that.

alter table restore
  add column job_id        uuid unique references job on delete set null,  -- null: by the command line
  add column person_id     uuid references person on delete set null,
  add column target        jsonb not null default '{}',  -- how it can be reached again, without secrets
  add column kept_repo_id  uuid references repo on delete set null,  -- that has what was overwritten; null: nothing was
  add column kept_snapshot snapshot_number,              -- of that repo, just before
  add column made          boolean not null default false,  -- the target was made for this
  add column undo_of       uuid references job on delete set null;   -- the restore that this one undid
create index restore_undoes on restore (undo_of) where undo_of is not null;

-- A row is a ref that a restore writes, set down before it is pushed: what undoing must put back, and what it must
-- find there to do so.
create table restored_ref (
  job_id uuid       not null references job on delete cascade,
  name   ref_name   not null,
  old    ref_target,                                     -- null: the target had no such ref
  new    ref_target not null,
  primary key (job_id, name)
);
