-- 004_ref_history.sql: where every ref pointed, from which snapshot to which, and every move it made.
-- A first snapshot can bring 100,000 rows to each of these tables. Foreign keys are probed row by row, so only the
-- one that nothing else implies is kept: the rest is written by the transaction that writes what they refer to.

-- A row is a name that a repo has, or once had: refs and HEAD. It stays when the ref is deleted.
create table ref (
  id      bigint   primary key generated always as identity,
  repo_id uuid     not null,
  name    ref_name not null
);
create unique index ref_of_repo on ref (repo_id, sha256(name));  -- a name can be longer than an index entry may be

-- A row is one stay of one ref at one target. A force-push ends a stay and starts another; it cannot hide what
-- was there before. The refs at a snapshot are, name by name, the last stay that began by then, if it lasted.
create table ref_stay (
  ref_id         bigint          not null references ref,
  first_snapshot snapshot_number not null,
  last_snapshot  snapshot_number,            -- null: it still points there
  target         ref_target      not null,
  primary key (ref_id, first_snapshot),
  check (first_snapshot <= last_snapshot)
);
create unique index ref_stay_now on ref_stay (ref_id) where last_snapshot is null;  -- a ref is in one place at a time

-- A row is one move of one ref, as a snapshot found it or a push told it: between two snapshots a ref can move
-- more than once. The moves of a snapshot are in the order of its manifest.
create table ref_change (
  repo_id   uuid            not null,
  snapshot  snapshot_number not null,
  position  int             not null check (position > 0),
  ref_id    bigint          not null,
  old       ref_target,                      -- null: it was created
  new       ref_target,                      -- null: it was deleted
  kind      text            not null check (kind in ('created', 'fast-forwarded', 'forced', 'deleted', 'moved')),
  pushed_by text,                            -- null: nobody told us
  pushed_at timestamptz,                     -- null: not known better than when the snapshot was taken
  primary key (repo_id, snapshot, position),
  check (num_nulls(old, new) < 2)
);
-- The moves that can have left objects behind, which no ref reaches any more.
create index ref_change_leaving on ref_change (repo_id, snapshot)
  where old is not null and kind <> 'fast-forwarded' and substring(old from 1 for 5) <> 'ref: '::bytea;
