-- 228_reseal.sql: what lies plain in the vault of a team that seals, and how far it was rewritten.

-- A row is a repo of a team that seals, as it was when its part of the vault was last listed.
create table reseal (
  repo_id      uuid        primary key references repo on delete cascade,
  since        timestamptz not null,  -- the team's sealed_since of then; another one: it is looked at again
  due_at       timestamptz not null,  -- when it is looked at next
  looked_at    timestamptz,           -- null: not yet
  objects      count_of    not null default 0,  -- that are still to be sealed
  bytes        count_of    not null default 0,  -- of these
  kept_objects count_of    not null default 0,  -- that lie plain although they are sealed by now, or were replaced
  kept_bytes   count_of    not null default 0,
  kept_until   timestamptz,           -- when the last of these can be deleted; null: there are none
  kept_held    boolean     not null default false,  -- some are on legal hold in a store, without an end
  problem      text                   -- why the last try left some; null: nothing went wrong
);
create index reseal_due on reseal (due_at);

-- A row is a manifest, note, description or record that lies sealed in the vault, and plain as well until prune
-- deletes that. The object goes first, then its row.
create table plain_tombstone (
  key         text        primary key,  -- of the plain object
  repo_id     uuid        not null references repo on delete cascade,
  bytes       count_of    not null,
  replaced_at timestamptz not null
);
create index plain_tombstone_of_repo on plain_tombstone (repo_id, replaced_at);
