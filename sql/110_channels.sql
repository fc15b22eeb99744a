-- 110_channels.sql: what people say about their addresses: that one is theirs, and that they want no more mails.

alter table channel
  add column stopped_at timestamptz;  -- its reader ended these mails; null: they did not. It is confirmed again to go on

-- When somebody opened a link that was mailed to this address, so that a forgotten password is reset by it; null: nobody has.
alter table person add column email_confirmed_at timestamptz;

create function email_is_another() returns trigger language plpgsql as $$
begin
  new.email_confirmed_at := null;
  return new;
end $$;
create trigger email_is_another before update of email on person for each row
  when (old.email is distinct from new.email) execute function email_is_another();
