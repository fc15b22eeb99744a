-- 060_set_aside.sql: what a restore keeps of its target, apart from what people chose to keep.

-- A repo that is set aside was made by a restore, to keep what an address held before it was overwritten. Nobody chose
-- it, so nothing of the team's own (no ssh key, no connection) is ever used to reach it, until an admin goes on with it.
alter table repo add column set_aside boolean not null default false;
update repo set set_aside = true
where paused_at is not null and added_by is null and connection_id is null
  and id in (select kept_repo_id from restore where kept_repo_id <> repo_id);
