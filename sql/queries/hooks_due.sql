-- hooks_due.sql($1, $2 moments, $3 limit per connection): the hooks to look at: unchecked since $1, or silent since before $2 while their repo moved.
select * from (
  select hook.*, row_number() over (partition by connection.id order by hook.checked_at nulls first, hook.id) as turn
  from hook
  join repo on repo.id = hook.repo_id
  join connection on connection.id = repo.connection_id
  where connection.state = 'works' and repo.archived_at is null and repo.paused_at is null
    and (
      hook.checked_at is null
      or hook.checked_at < $1::timestamptz + make_interval(secs => hashtext(hook.id) & 32767)  -- up to 9 hours sooner, each at its own time
      or (
        repo.changed_at > coalesce(hook.delivered_at, hook.created_at) + interval '10 minutes'
        and hook.checked_at < least(repo.changed_at, $2::timestamptz)
      )
    )
) due
where turn <= $3
order by checked_at nulls first, id
