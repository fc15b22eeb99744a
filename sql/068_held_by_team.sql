-- 068_held_by_team.sql: a host's word to what is asked without credentials is to the team that asked.

-- Whose credentials a repo is asked with, as in 033_host_holds.sql; without any, its team's. A host can say 429 for one address
-- alone, so what one team's address is told must not keep others from the host; each of them asks once to hear the same.
create or replace function holder(repo_id uuid, connection_id uuid) returns text language sql stable as $$
  select case
    when exists (select from credential where credential.repo_id = holder.repo_id) then 'repo ' || holder.repo_id
    when holder.connection_id is not null then 'connection ' || holder.connection_id
    else 'team ' || (select team_id from repo where repo.id = holder.repo_id)
  end
$$;
