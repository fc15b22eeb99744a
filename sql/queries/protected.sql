-- protected.sql($1 repo, $2 when, $3 the wish that was served or null): what the remote said then is stored.
-- Where its team was told that it fails, it is told that this is over.
with was as (
  select id, team_id, name, failing_since from repo where id = $1 and failing_since is not null
), changed as (
  update repo set
    protected_as_of = case  -- a clock that was ahead is not believed for ever
      when protected_as_of < $2::timestamptz + interval '1 hour' then greatest(protected_as_of, $2) else $2
    end,
    synced_at = greatest(synced_at, $3::timestamptz),
    behind_since = case when wanted_at is distinct from greatest(synced_at, $3) then $2 end,
    failure_class = null, failure_message = null, failing_since = null, failed_at = null,
    failures = 0, retry_at = null, archived_at = null, crashes = 0
  where id = $1
)
insert into notice (team_id, repo_id, kind, message, at, told_key)
select team_id, id, 'recovered', name || ' is protected again', $2, 'recovered ' || id || ' ' || failing_since
from was
where exists (
  select from notice where notice.repo_id = was.id and kind in ('failing', 'archived') and notice.at >= was.failing_since
)
on conflict (told_key) do nothing
