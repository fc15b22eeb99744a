-- 181_erased.sql: repos whose backups somebody let go: nothing else is left of them here, and soon in the vault.

-- A row is a repo that is gone. Its row went first, its objects follow as far as the store lets anybody delete them.
create table erased_repo (
  repo_id      uuid        primary key,             -- no foreign key: its row is gone
  team_id      uuid        references team on delete set null,
  action_id    uuid        references pending_action on delete set null,  -- who asked for it, who confirmed it, and why
  name         text        not null,                -- as it was called; empty: only the vault tells of it
  forge        text        not null,
  host         text,
  repository_id text,                               -- the host's number: no rule chooses it again. null: not known
  snapshots    int         not null,
  bytes        count_of    not null,                -- that its live parts had
  erased_at    timestamptz not null,
  looked_at    timestamptz,                         -- when the vault was last searched for objects of it; null: never
  objects_left int,                                 -- that it had then; null: not known
  locked_until timestamptz,                         -- until when the store keeps the first of these; null: nothing says so
  gone_at      timestamptz,                         -- when none was left
  check (gone_at is null or objects_left = 0)
);
create index erased_repo_of_team on erased_repo (team_id, erased_at);
create index erased_repo_left on erased_repo (erased_at) where gone_at is null;
