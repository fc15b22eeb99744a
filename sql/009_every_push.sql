-- 009_every_push.sql: which claims are open, which pushes could not be rescued, and how a repo that fails goes on.

-- A claim is open until a sync has answered it: by a ref change, because the history had it already, or as lost.
alter table claim add column open boolean not null default true;
update claim set open = false;
create index claim_open on claim (delivery_id, position) where open;

-- A row is a push that a delivery told of and that nobody can bring back: the remote had no such object any more when
-- we asked, or what it had was broken. It is part of the history; deliveries are forgotten, this is not.
create table lost_push (
  id         bigint          primary key generated always as identity,
  repo_id    uuid            not null references repo on delete cascade,
  snapshot   snapshot_number not null,         -- the latest one when this was noticed
  name       ref_name        not null,
  old        ref_target,                       -- null: it was created, or this was not told
  new        ref_target      not null,         -- what is not there any more
  pushed_by  text,                             -- null: not told
  pushed_at  timestamptz     not null,
  noticed_at timestamptz     not null,
  why        text            not null
);
create index lost_push_of_repo on lost_push (repo_id, snapshot);

-- How a repo that fails goes on, and since when it is behind.
alter table repo
  add column failures     int not null default 0 check (failures >= 0),  -- in a row, of the present class
  add column retry_at     timestamptz,   -- when automatic tries go on; null while it fails: when credentials or address change
  add column behind_since timestamptz;   -- the oldest wish that was not served; null: none waits
update repo set retry_at = failed_at where failure_class is not null;
update repo set behind_since = wanted_at where wanted_at is distinct from synced_at;
