# Rails' Action Cable with what it needs and no more: clients follow any stream, and a request to /_broadcast, as
# AnyCable's, is a broadcast. One process, with the adapter that needs no other: puma actioncable.ru.
require "action_cable"
require "json"

class Connection < ActionCable::Connection::Base
end

class StreamChannel < ActionCable::Channel::Base
  def subscribed
    stream_from params[:stream_name]
  end
end

cable = ActionCable.server
cable.config.cable = { "adapter" => "async" }
cable.config.connection_class = -> { Connection }
cable.config.disable_request_forgery_protection = true
cable.config.logger = Logger.new(nil)

run(lambda do |env|
  return cable.call(env) unless env["PATH_INFO"] == "/_broadcast"

  told = JSON.parse(env["rack.input"].read)
  cable.broadcast(told["stream"], JSON.parse(told["data"]))
  [201, {}, []]
end)
