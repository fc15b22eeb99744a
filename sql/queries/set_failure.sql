-- set_failure.sql($1 repo, $2 class, $3 message, $4 when, $5 when it is tried again or null): the last run failed.
-- The team is told once for each class that a spell of failures has: of what may pass by itself after an hour.
with was as (
  select id, archived_at from repo where id = $1 for update  -- as it is, where another one archives it just now
), changed as (
  update repo set
    failure_class = $2::text, failure_message = $3::text,
    failing_since = coalesce(failing_since, $4::timestamptz), failed_at = $4,
    -- one that came before the next try was due, as a push brought it about, is the same trouble still
    failures = case when failure_class = $2 then failures + case when retry_at > $4 then 0 else 1 end else 1 end,
    retry_at = $5::timestamptz,
    archived_at = case
      when $2 = 'gone' and failure_class = 'gone' and $4 >= failing_since + interval '1 day'
        then coalesce(repo.archived_at, $4)
      else repo.archived_at
    end
  from was where repo.id = was.id
  returning repo.id, team_id, name, failing_since, repo.archived_at
)
insert into notice (team_id, repo_id, kind, message, at, told_key)
select
  team_id, changed.id, case when gone then 'archived' else 'failing' end,
  name || case when gone then ' is gone at its forge; everything that was kept of it stays' else ' is failing: ' || $3 end,
  $4, case when gone then 'archived ' else 'failing ' end || changed.id || ' ' || failing_since || ' ' || $2
from changed join was using (id),
  lateral (select changed.archived_at is not null and was.archived_at is null as gone) told
where gone or $2 not in ('network', 'limit', 'busy', 'cancelled') or failing_since <= $4 - interval '1 hour'
on conflict (told_key) do nothing
