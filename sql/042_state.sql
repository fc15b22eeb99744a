-- 042_state.sql: which exports of the state this database knows: teams, people, connections and the like, in the vault.

-- A row is one export in the vault. One that is not here was made by another database: the one before this was lost.
create table state_export (
  key      text        primary key,   -- of the sealed object
  taken_at timestamptz not null,
  state    text        not null check (state in ('begun', 'stored', 'taken-up', 'unreadable')),
  tables   jsonb       not null default '{}'  -- how many rows of each
);
create index state_export_by_time on state_export (taken_at);
