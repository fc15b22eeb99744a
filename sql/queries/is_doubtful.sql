-- is_doubtful.sql($1 repo): whether there is a reason to ask the forge what has become of the repository.
select
  repo.archived_at is not null
  or coalesce(repo.failure_class in ('gone', 'moved', 'blocked', 'identity', 'credentials'), false)
    and repo.failed_at > coalesce(repo.asked_at, '-infinity')
  or exists (
    select from hook
    join delivery on delivery.hook_id = hook.id
    where hook.repo_id = repo.id and delivery.kind = 'repository' and delivery.received_at > coalesce(repo.asked_at, '-infinity')
  )
  or exists (
    select from listed
    where listed.connection_id = repo.connection_id and listed.clone_url = repo.url
      and listed.repository_id <> repo.repository_id and listed.gone_at is null
  )
from repo
where repo.id = $1
